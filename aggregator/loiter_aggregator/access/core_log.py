"""Hears of TLS handshakes that fail, of which gRPC tells nobody but standard error.

gRPC's C core refuses a certificate before any of our code is called, and says so nowhere but in its own log, which it
writes to file descriptor 2 where the environment told it to when it was loaded:
    I1122 22:40:07.480423 18436 handshaker.cc:155] CallNextHandshakerLocked: error=UNKNOWN: Ssl handshake failed
    (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:…: PEER_DID_NOT_RETURN_A_CERTIFICATE: …: OK
    === Source Location Trace: ===
    src/core/util/status_helper.cc:68
     shutdown=false index=2, args={…, grpc.internal.endpoint_peer_address=ipv4:10.0.0.7:42340, …
So descriptor 2 becomes a pipe that is read here; Python's own standard error stays what it was. The form of those lines
is none that gRPC vouches for: what is not understood is left out, or passed on where it is a warning or an error. What
is written there by the last breath of a process that crashes is lost. All this costs a third of a millisecond of CPU
for each connection, besides the one that TLS takes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Final

from loiter.text import printable
from loiter_aggregator.access.peers import peer_host
from loiter_aggregator.access.refusals import RefusalLog

_log = logging.getLogger(__name__)

_ENVIRONMENT: Final = {"GRPC_VERBOSITY": "INFO", "GRPC_TRACE": "handshaker"}
# What `loiter` sets for all its verbs: whoever set something else wants to read the log as gRPC writes it.
_QUIET: Final = "NONE"
_PIPE_BYTES: Final = 1 << 20
_MAX_LINE_BYTES: Final = 16_384

_ERROR: Final = b"CallNextHandshakerLocked: error="
_PEER: Final = b"endpoint_peer_address="
_HEADER: Final = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ \S+\] ")
_ADDRESS: Final = re.compile(rb"endpoint_peer_address=([^,} ]+)")
# Lines that belong to a record of the handshaker's.
_CONTINUED: Final = (b" shutdown=", b"=== Source Location Trace", b"src/core/")
# What it says of the verbosity that we set ourselves.
_OF_OURS: Final = b"is not suitable for production"

_HUNG_UP: Final = "it hung up in the middle, as one does that does not trust this aggregator's certificate"

# What the core says, and what that means. The first that fits counts.
_MEANINGS: Final = (
    (b"PEER_DID_NOT_RETURN_A_CERTIFICATE", "it shows no certificate"),
    (b"certificate has expired", "its certificate has expired"),
    (b"certificate is not yet valid", "its certificate is not valid yet"),
    (b"self signed certificate", "its certificate is self-signed"),
    (b"self-signed certificate", "its certificate is self-signed"),
    (b"unable to get local issuer", "its certificate is issued by an authority that tls.client_ca does not hold"),
    (b"certificate signature failure", "its certificate is issued by an authority that tls.client_ca does not hold"),
    (b"unsupported certificate purpose", "its certificate is not made for clients (extended key usage)"),
    (b"WRONG_VERSION_NUMBER", "it speaks no TLS"),
    (b"HTTP_REQUEST", "it speaks no TLS"),
    (b"UNKNOWN_CA", "it does not trust this aggregator's certificate: it does not know the authority"),
    (b"ALERT_CERTIFICATE_EXPIRED", "it does not trust this aggregator's certificate: it has expired"),
    (b"ALERT_BAD_CERTIFICATE", "it does not trust this aggregator's certificate"),
    (b"ALERT_CERTIFICATE_UNKNOWN", "it does not trust this aggregator's certificate"),
    # A gRPC client that does not trust us says nothing and goes; OpenSSL's parting words can not be read at that point.
    (b"Handshake read failed", _HUNG_UP),
    (b"BAD_PACKET_LENGTH", _HUNG_UP),
)


def enable(environment: MutableMapping[str, str]) -> bool:
    """Has the core write its log, if this is before it is loaded and nobody has asked for another.

    Returns:
        Whether it will.
    """
    if environment.get("GRPC_VERBOSITY", _QUIET) != _QUIET or "GRPC_TRACE" in environment or "grpc" in sys.modules:
        return False
    environment.update(_ENVIRONMENT)
    return True


@contextmanager
def capture() -> Iterator[None]:
    """Reads descriptor 2 for as long as the block lasts, and logs what of it people should know.

    Where that can not be set up, it is said, and nothing is read.
    """
    try:
        stop = _start()
    except OSError as error:
        _log.warning("refused TLS handshakes will not be logged: %s", error.strerror)
        yield
        return
    try:
        yield
    finally:
        stop()


def _start() -> Callable[[], None]:
    reading, writing = os.pipe()
    # A full pipe must not hold up the core, which writes while others wait for it: then it loses a line.
    os.set_blocking(writing, False)
    with suppress(OSError):  # more than an unprivileged user may have
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    kept = os.dup(2)
    own = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    before = sys.stderr
    sys.stderr = own
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(own)
    os.dup2(writing, 2)
    os.close(writing)
    thread = threading.Thread(target=_read, args=(reading,), name="core log", daemon=True)
    thread.start()

    def stop() -> None:
        os.dup2(kept, 2)  # closes the last writing end, which ends the thread
        os.close(kept)
        thread.join(1.0)

    return stop


def _read(reading: int) -> None:
    reader = CoreLog()
    rest = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while chunk := pipe.read(_PIPE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:_MAX_LINE_BYTES]
            for line in lines:
                reader.line(line)


class CoreLog:
    """Makes sense of the core's log, line by line."""

    def __init__(self, refusals: RefusalLog | None = None) -> None:
        """Takes where refusals are logged."""
        self._refusals = refusals or RefusalLog(_log)
        self._reason: bytes | None = None

    def line(self, line: bytes) -> None:
        """Takes the next line, without its end."""
        at = line.find(_ERROR)
        if at >= 0:
            reason = line[at + len(_ERROR) :]
            self._reason = None if reason.startswith(b"OK") else reason
        if self._reason is not None and _PEER in line:
            self._failed(self._reason, line)
            self._reason = None
        elif at < 0 and self._reason is None:
            self._pass_on(line)

    def _failed(self, reason: bytes, line: bytes) -> None:
        if b"shutting down" in reason or b"shutdown=true" in line:
            return
        match = _ADDRESS.search(line)
        peer = peer_host(match[1].decode("ascii", "replace")) if match is not None else "an unknown address"
        meaning = next((words for said, words in _MEANINGS if said in reason), None)
        if meaning is None:
            said = reason.partition(b" shutdown=")[0].removesuffix(b": OK")
            meaning = printable(said[:300].decode("utf-8", "replace"))
        self._refusals.say((peer, meaning), f"TLS handshake with {peer} failed: {meaning}", peer=peer, reason=meaning)

    def _pass_on(self, line: bytes) -> None:
        """Logs what the core warns of, and what others write to descriptor 2; the rest of its talk is left out."""
        header = _HEADER.match(line)
        if header is None:
            if line.strip() and not line.startswith(_CONTINUED):
                _log.warning("%s", printable(line.decode("utf-8", "replace")))
        elif header[1] != b"I" and _OF_OURS not in line:
            _log.warning("gRPC: %s", printable(line[header.end() :].decode("utf-8", "replace")))
