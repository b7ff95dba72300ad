"""Says on a terminal what is being waited for, once that takes more than a second."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from loiter.text import printable

AFTER_SECONDS: Final = 1.0
_TURN_SECONDS: Final = 0.2
_SIGNS: Final = "|/-\\"
_WIPE: Final = "\r\x1b[K"


@contextmanager
def waiting(what: str, stream: TextIO | None = None, after: float = AFTER_SECONDS) -> Iterator[None]:
    """Says on `stream`, by default standard error, what the block waits for and since when; wipes that away at its end.

    Says nothing where either output is no terminal, or one that can not wipe, nor before `after` seconds.
    """
    out = sys.stderr if stream is None else stream
    if not (out.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        yield
        return
    over = threading.Event()
    saying = threading.Thread(target=_say, args=(printable(what), out, after, over), daemon=True)
    saying.start()
    try:
        yield
    finally:
        over.set()
        saying.join()


def _say(what: str, out: TextIO, after: float, over: threading.Event) -> None:
    since = time.monotonic()
    if over.wait(after):
        return
    with suppress(OSError):  # a terminal that went away needs no telling
        for sign in itertools.cycle(_SIGNS):
            line = f"{sign} {what}, {time.monotonic() - since:.0f} s"
            # A line that goes on in the next could not be wiped.
            out.write(_WIPE + line[: _columns(out) - 1])
            out.flush()
            if over.wait(_TURN_SECONDS):
                break
        out.write(_WIPE)
        out.flush()


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80
