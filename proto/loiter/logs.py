"""How both programs log: one line each, in the format that whoever reads it wants, and never more than is of use.

A call that logs says in words what happened, and hands over the facts that people filter by:

    _log.info("reporting to %s", server, extra=fields(server=server))

Of a message that comes again and again, the first few in a minute are written, and then how many more there were.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import sys
import threading
import warnings
from typing import Any, Final, TextIO

from loiter.log_limit import UNLIMITED, LogLimit
from loiter.log_records import FIELDS, TextFormatter

LOG_FORMATS: Final = ("auto", "text", "json", "journal")

_log = logging.getLogger(__name__)
_installed: tuple[logging.Handler, LogLimit] | None = None


def fields(**facts: object) -> dict[str, object]:
    """The facts of a message, by their names, for the `extra` of a call that logs. None stands for unknown."""
    return {FIELDS: facts}


def unlimited(**facts: object) -> dict[str, object]:
    """The same, for messages whose number somebody else keeps within bounds."""
    return {FIELDS: facts, UNLIMITED: True}


def configure(program: str, log_format: str, level: str) -> None:
    """Sets the root logger up, or sets it up anew. What nobody catches, and Python's warnings, are logged from then on.

    Args:
        program: The name in the journal.
        log_format: One of LOG_FORMATS. `auto` is `journal` where standard error is the journal's, and `text` elsewhere.
        level: The least severe level to log.
    """
    global _installed
    if log_format == "auto":
        log_format = "journal" if _is_read_by_the_journal(2) else "text"
    handler = _handler(program, log_format)
    root = logging.getLogger()
    if _installed is None:
        limit = LogLimit(_say)
        atexit.register(_say_the_rest)
    else:
        limit = _installed[1]  # settings that are read again are no reason to say it all again
        root.removeHandler(_installed[0])
        _installed[0].close()
    handler.addFilter(limit)
    _installed = handler, limit
    root.addHandler(handler)
    root.setLevel(level.upper())
    _log_what_nobody_catches()
    if not faulthandler.is_enabled():
        # SIGABRT is what systemd ends a process with that hangs: where it does is written before it dies. To a
        # descriptor of its own, since descriptor 2 may become a pipe that is read by the process that dies.
        faulthandler.enable(os.dup(2))


def say_the_end(message: str) -> bool:
    """Logs why the program ends, where programs read the log. False where people do, who are told as ever."""
    if _installed is None or isinstance(_installed[0].formatter, TextFormatter):
        return False
    _log.critical("%s", message)
    return True


def _handler(program: str, log_format: str) -> logging.Handler:
    if log_format == "journal":
        from loiter.journal import JournalHandler  # late: of one format alone, and so is that of JSON

        return JournalHandler(program)
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler()
    if log_format == "json":
        from loiter.log_json import JsonFormatter

        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    return handler


def _is_read_by_the_journal(descriptor: int) -> bool:
    """Whether a descriptor is the stream that systemd has connected to the journal: see systemd.exec(5).

    A service may have its standard error elsewhere, and the variable is inherited by whatever it starts.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _say(record: logging.LogRecord) -> None:
    if _installed is not None:
        _installed[0].handle(record)


def _say_the_rest() -> None:
    if _installed is not None:
        _installed[1].say_the_rest()


def _log_what_nobody_catches() -> None:
    def on_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            _log.critical("ended by a mistake in the program", exc_info=(kind, error, trace))

    def in_thread(hook: threading.ExceptHookArgs) -> None:
        if hook.exc_value is not None and not isinstance(hook.exc_value, SystemExit):
            name = "a thread" if hook.thread is None else f"thread {hook.thread.name}"
            _log.error("%s ended by a mistake in the program", name, exc_info=hook.exc_value)

    def on_unraisable(hook: sys.UnraisableHookArgs) -> None:
        said = hook.err_msg or "an error that could not be raised"
        _log.error("%s in %r", said, hook.object, exc_info=hook.exc_value)

    def on_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG001 - as warnings.showwarning has it, and the next
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        _log.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)

    sys.excepthook = on_exception
    threading.excepthook = in_thread
    sys.unraisablehook = on_unraisable
    warnings.showwarning = on_warning
