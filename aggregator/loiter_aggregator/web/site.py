"""Puts the pages together to one application."""

from __future__ import annotations

from starlette.applications import Starlette

from loiter_aggregator.access.authentication import Authenticator
from loiter_aggregator.clock import Clock
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.metrics.metrics import Metrics


def make_site(
    reading: Reading, metrics: Metrics, authenticator: Authenticator, settings: AggregatorSettings, clock: Clock
) -> Starlette:
    """Makes the application that answers HTTP."""
    del reading, metrics, authenticator, settings, clock
    return Starlette()
