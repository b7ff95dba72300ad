"""Opens connections to aggregators: in plaintext, or by TLS with a certificate or a token of the agent's own."""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import grpc

from loiter.own_python import module_command
from loiter.text import printable
from loiter.transport import Security, channel_credentials, read_token, token_metadata, wants_tls

__all__ = ["Security", "call_metadata", "explain_failure", "open_channel"]

# It takes a tenth of a second, and on a host that has no time for anything a hundred times that.
_DIAGNOSIS_SECONDS: Final = 15.0
# An agent that can not connect tries again and again, and a diagnosis costs more than the try.
_DIAGNOSED_FOR_SECONDS: Final = 300.0
_UNEXPLAINED_FOR_SECONDS: Final = 30.0
_MAX_EXPLANATIONS: Final = 16
# How gRPC words what TLS may be at the bottom of. A stream that was open and broke is none of it.
_NO_CONNECTION: Final = "failed to connect"
_OF_TLS: Final = (
    "ssl",
    "handshake",
    "certificate",
    "hostname verification",
    "socket closed",
    "connection reset",
    "broken pipe",
)

# What was found, and until when that holds.
_explanations: dict[tuple[str, Security, str], tuple[float, str]] = {}


def open_channel(server: str, security: Security, options: Sequence[tuple[str, object]]) -> grpc.aio.Channel:
    """Opens a channel: TLS, unless the address is of this machine and no CA is given, or plaintext is asked for.

    Raises:
        OSError: A file can not be read, or does not hold what it should. The message says which.
    """
    if wants_tls(server, security):
        return grpc.aio.secure_channel(server, channel_credentials(security), options=options)
    return grpc.aio.insecure_channel(server, options=options)


def call_metadata(security: Security) -> tuple[tuple[str, str], ...]:
    """What goes with each call: the token, where there is one. Raises OSError as `open_channel` does."""
    return () if security.token_file is None else token_metadata(read_token(security.token_file))


async def explain_failure(server: str, security: Security, details: str) -> str:
    """Puts into words why a connection could not be made, where gRPC says little; else returns `details`.

    The words for the same failure are found once in five minutes, by a process that ends within 15 seconds.
    """
    said = details.lower()
    if _NO_CONNECTION not in said or not any(word in said for word in _OF_TLS):
        return details
    key = (server, security, details)
    now = time.monotonic()
    for old in [one for one, (until, _) in _explanations.items() if until <= now]:
        del _explanations[old]
    if key not in _explanations:
        if len(_explanations) >= _MAX_EXPLANATIONS:
            return details
        found = await _diagnose(server, security)
        lasts = _UNEXPLAINED_FOR_SECONDS if found is None else _DIAGNOSED_FOR_SECONDS
        _explanations[key] = now + lasts, found or details
    return _explanations[key][1]


async def _diagnose(server: str, security: Security) -> str | None:
    """Runs loiter.tls_diagnosis apart: it needs OpenSSL, which the agent keeps out of its memory."""
    command = module_command("loiter.tls_diagnosis", server)
    for flag, file in (("--ca", security.ca), ("--certificate", security.certificate), ("--key", security.key)):
        if file is not None:
            command += [flag, str(file)]
    if security.insecure:
        command.append("--insecure")
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    except OSError:
        return None
    try:
        async with asyncio.timeout(_DIAGNOSIS_SECONDS):
            assert process.stdout is not None
            # What it writes is a sentence: it is never waited for longer than that takes.
            said = await process.stdout.read(4_096)
            await process.wait()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return printable(said.decode("utf-8", "replace").strip()) or None
