"""Log lines as JSON, one object a line."""

from __future__ import annotations

import json
import logging

from loiter.log_records import fields_of, headline_of, time_of, traceback_of


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, the facts by their names, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object, in ASCII."""
        line: dict[str, object] = {
            "time": time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": headline_of(record),
        }
        if (trace := traceback_of(record)) is not None:
            line["exception"] = trace
        for name, value in fields_of(record).items():
            line.setdefault(name, value)
        return json.dumps(line, default=str)
