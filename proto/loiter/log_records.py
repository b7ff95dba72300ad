"""What a record of the log holds, in the form in which it is written. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from loiter.text import printable

FIELDS: Final = "fields"

# What is longer is cut: a line that is sent to the journal has to fit into one datagram.
_MAX_CHARS: Final = 16_000
_CUT: Final = "…"


def time_of(record: logging.LogRecord) -> str:
    """When it was logged, by RFC 3339, in UTC and to the millisecond."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message_of(record: logging.LogRecord) -> str:
    """Its words, on one line, whatever was put into them."""
    words = printable(record.getMessage())
    return words if len(words) <= _MAX_CHARS else words[:_MAX_CHARS] + _CUT


def headline_of(record: logging.LogRecord) -> str:
    """Its words and, where it holds an exception, which: for those who do not see the traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return message_of(record)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{message_of(record)}: {printable(what[:_MAX_CHARS])}"


def fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """The facts that were handed over with it."""
    found = getattr(record, FIELDS, None)
    return found if isinstance(found, Mapping) else {}


def traceback_of(record: logging.LogRecord) -> str | None:
    """The traceback of its exception, line by line; its end, which says most, where it is long. None without one."""
    if not record.exc_info or record.exc_info[1] is None:
        return None
    lines = logging.Formatter().formatException(record.exc_info).splitlines()
    text = "\n".join(map(printable, lines))
    return text if len(text) <= _MAX_CHARS else _CUT + text[-_MAX_CHARS:]


class TextFormatter(logging.Formatter):
    """Time, level and words; a traceback beneath, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        line = f"{time_of(record)} {record.levelname} {message_of(record)}"
        trace = traceback_of(record)
        return line if trace is None else "\n    ".join((line, *trace.splitlines()))
