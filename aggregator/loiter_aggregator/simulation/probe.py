"""Tries whether an aggregator takes reports, before a fleet of agents does."""

from __future__ import annotations

from typing import Final

import click
import grpc

from loiter.v1.ingest_service_pb2_grpc import IngestServiceStub
from loiter_aggregator.client import FleetClient

_SECONDS: Final = 10.0


def probe(client: FleetClient, metadata: tuple[tuple[str, str], ...]) -> None:
    """Opens a stream without a hello. Raises ClickException, fit for a person, where it would not be let in."""
    try:
        for _ in IngestServiceStub(client.channel).StreamReports(iter(()), timeout=_SECONDS, metadata=metadata):
            pass
    except grpc.RpcError as error:
        # As `ingest_service.proto` says of whoever tries that.
        if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            return
        raise click.ClickException(client.explain(error)) from None
