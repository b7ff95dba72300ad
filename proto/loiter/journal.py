"""Log lines for the systemd journal, each with its severity and the facts in fields of their own.

They go to journald's own socket, in the form that https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ describes: what is
written to standard error would all be of one severity, and words alone. Where that socket does not take them, as in a
container whose standard error somebody else sends to a journal, they go there after all, with the severity in front
(`<3>`, see sd-daemon(3)).
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from loiter.log_records import fields_of, headline_of, traceback_of

SOCKET: Final = Path("/run/systemd/journal/socket")

# A journald that hangs must not hold us up for long.
_TIMEOUT_SECONDS: Final = 0.5
_MAX_FIELD_CHARS: Final = 1_000
# syslog(3): what is least severe of those that count.
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG: Final = 7


class JournalHandler(logging.Handler):
    """Sends each record to the journal."""

    def __init__(self, program: str, path: Path = SOCKET) -> None:
        """Takes the name that the lines have in the journal (SYSLOG_IDENTIFIER), and the socket of journald."""
        super().__init__()
        self._program = program
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes it; where neither is read, as by a journald that hangs, counts it for the next that can be written."""
        try:
            if not self._send(record):
                self._lost += 1
            elif self._lost:
                lost, self._lost = self._lost, 0
                self._send(_loss(lost))
        except Exception:
            self.handleError(record)

    def _send(self, record: logging.LogRecord) -> bool:
        try:
            # To the address each time: journald may have been started anew.
            self._socket.sendto(encode(self._program, record), self._path)
        except OSError:
            return _write(record)
        return True

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
        super().close()


def _write(record: logging.LogRecord) -> bool:
    """Writes to standard error, unless that would take long."""
    lines = (headline_of(record), *(traceback_of(record) or "").splitlines())
    priority = priority_of(record)
    data = "".join(f"<{priority}>{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    descriptor = sys.stderr.fileno()  # the one of now: the aggregator changes it
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    while data:
        if not room.poll(_TIMEOUT_SECONDS * 1_000):
            return False
        # So much never blocks where there is room (pipe(7)).
        data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
    return True


def _loss(count: int) -> logging.LogRecord:
    words = "%s messages before this are lost: nobody took them"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, words, (f"{count:,}",), None)


def priority_of(record: logging.LogRecord) -> int:
    """The severity as syslog(3) has it."""
    return next((priority for level, priority in _PRIORITIES if record.levelno >= level), _DEBUG)


def encode(program: str, record: logging.LogRecord) -> bytes:
    """One record as a datagram."""
    return b"".join(_field(name, value) for name, value in _fields(program, record))


def _fields(program: str, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", headline_of(record)
    yield "PRIORITY", str(priority_of(record))
    yield "SYSLOG_IDENTIFIER", program
    yield "LOITER_LOGGER", record.name
    for name, value in fields_of(record).items():
        if value is not None:
            yield "LOITER_" + re.sub("[^A-Z0-9_]", "_", name.upper())[:50], str(value)[:_MAX_FIELD_CHARS]
    if (trace := traceback_of(record)) is not None:
        yield "LOITER_EXCEPTION", trace


def _field(name: str, value: str) -> bytes:
    """One field. A value of several lines has its length before it."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
