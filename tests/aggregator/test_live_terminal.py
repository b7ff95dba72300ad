"""The live view on a terminal of its own: what the keyboard may send, and what is left when the program fails."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.programs import CLEAN_ENVIRONMENT

SECONDS = 20.0
# A view that asks nobody. It is a program of its own: a terminal is of a process.
PROGRAM = """
from rich.text import Text
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.live.pages import Content, Page
from loiter_aggregator.live.terminal import watch

class Nobody:
    def give_up(self): pass

class Shown(Page):
    def heading(self): return "shown"
    def ask(self, client):
        if self.contains == "fail": raise ZeroDivisionError("of ours")
        return Content((Text(f"by {self.by}, {self.contains or 'everything'}"),))

watch(Nobody(), Shown(pb.RankingQuery(), "stuck", 60.0), False)
"""


class Pty:
    """A program on a terminal."""

    def __init__(self, program: subprocess.Popen[bytes], terminal: int, its_end: int) -> None:
        self.program = program
        self._terminal, self._its_end = terminal, its_end
        self._seen = b""

    def press(self, keys: bytes) -> None:
        """Types, and waits until it was read."""
        os.write(self._terminal, keys)
        end = time.monotonic() + SECONDS
        # FIONREAD: how many bytes nobody has read yet; see ioctl_tty(2).
        while fcntl.ioctl(self._its_end, termios.FIONREAD, bytes(4)) != bytes(4):
            assert time.monotonic() < end, f"{keys!r} was not read"
            self._read()

    def shows(self, text: str) -> str:
        """Waits until a text was written, and returns what was until then; begins anew after it."""
        end = time.monotonic() + SECONDS
        while text.encode() not in self._seen:
            assert time.monotonic() < end, f"{text!r} was not written, but {self._seen!r}"
            self._read()
        seen, self._seen = self._seen, b""
        return seen.decode()

    def ends(self) -> tuple[int, str]:
        """Waits until the program ended: its exit status, and what it wrote since."""
        end = time.monotonic() + SECONDS
        while self.program.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self._seen.decode()}"
            self._read()
        while self._read():
            pass
        return self.program.returncode, self._seen.decode()

    def _read(self) -> bool:
        readable, _, _ = select.select([self._terminal], [], [], 0.1)
        try:
            read = os.read(self._terminal, 65_536) if readable else b""
        except OSError:  # EIO: nobody has it open any more
            return False
        self._seen += read
        return bool(read)


@contextmanager
def on_terminal(folder: Path) -> Iterator[Pty]:
    """Runs the view on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**CLEAN_ENVIRONMENT, "TERM": "xterm", "HOME": str(folder)}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, process_group=0
    )
    try:
        yield Pty(program, ours, theirs)
    finally:
        if program.poll() is None:
            program.send_signal(signal.SIGKILL)
        program.wait(SECONDS)
        os.close(theirs)
        os.close(ours)


def test_bytes_of_another_encoding_are_keys_that_do_nothing(tmp_path: Path) -> None:
    """As a keyboard of Latin-1 sends; the keys after them are heard."""
    with on_terminal(tmp_path) as one:
        one.shows("by stuck")
        one.press(b"\xe9g")
        one.shows("by close-wait-growth")
        one.press(b"\xff\xfe\xc3\x28t")
        one.shows("by time-wait")
        one.press(b"g")
        one.shows("by close-wait-growth")
        one.press(b"\xe9")
        one.press(b"t")
        one.shows("by time-wait")
        one.press(b"\xc3")
        one.press(b"\xa9")
        one.press(b"q")
        status, _ = one.ends()
        assert status == 0


def test_a_mistake_of_the_program_ends_it_as_a_failure(tmp_path: Path) -> None:
    """With what it was, on a screen that is as before."""
    with on_terminal(tmp_path) as one:
        one.shows("by stuck")
        one.press(b"/")
        one.shows("Enter keeps it")
        one.press(b"fail\r")
        status, said = one.ends()
        assert status == 1
        _, screen_given_back, after = said.rpartition("\x1b[?1049l")
        assert screen_given_back
        assert "of ours" in after
        assert after.rstrip().endswith("loiter: the live view ended by a mistake in the program, which is above")
