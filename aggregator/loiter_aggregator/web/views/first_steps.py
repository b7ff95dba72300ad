"""What to type where no host has reported yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loiter.addresses import is_loopback
from loiter.limits import DEFAULT_SERVER
from loiter_aggregator.config import AggregatorSettings

_EVERYWHERE: Final = ("0.0.0.0", "[::]")  # noqa: S104 - read, not listened on


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """Where agents find this aggregator: those of other hosts, by `server`, and one on this machine, by `flags`.

    `alone` tells that it listens for this machine alone.
    """

    server: str
    flags: str
    alone: bool


def first_steps(settings: AggregatorSettings) -> FirstSteps:
    """Says where agents report. Pure."""
    host, _, port = settings.listen.rpartition(":")
    alone = is_loopback(settings.listen)
    server = f"AGGREGATOR:{port}" if alone or host in _EVERYWHERE else settings.listen
    local = f"127.0.0.1:{port}" if host in _EVERYWHERE else settings.listen
    return FirstSteps(server, "" if local == DEFAULT_SERVER else f" --server {local}", alone)
