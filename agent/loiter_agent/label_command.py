"""Runs the command that prints labels: without a shell, not for long, and not with much output.

It has an environment of its own, and a session, which ends with it: what it has started in the background is killed.
It has none of the capabilities that the service has been given, only those of its user.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from loiter.durations import format_duration
from loiter.settings import label_lines
from loiter.text import printable

TIMEOUT_SECONDS: Final = 10.0
# 32 labels of the greatest length are 10 kB of ASCII; comments take some room, too.
MAX_OUTPUT_BYTES: Final = 64 << 10
_MAX_QUOTED: Final = 200
_LOOK_SECONDS: Final = 0.05
_LAST_SECONDS: Final = 1.0
# linux/prctl.h
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


class CommandError(Exception):
    """The command printed no labels; the message says why."""


def split_command(command: str) -> tuple[str, ...]:
    """Splits a command into its words, as a shell would, of which nothing else is understood. Raises ValueError."""
    import shlex  # late: few hosts have such a command

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{command!r} can not be split into words: {error}") from None
    if not words or "\0" in command:
        raise ValueError(f"{command!r} names no program")
    return tuple(words)


def run_command(
    words: Sequence[str], seconds: float = TIMEOUT_SECONDS, called_off: threading.Event | None = None
) -> dict[str, str]:
    """Runs the command, for so many seconds or until it is called off, and returns the labels that it prints.

    Raises CommandError.
    """
    try:
        # Ambient capabilities are those of a thread, and of what it starts.
        with ThreadPoolExecutor(max_workers=1) as thread:
            process = thread.submit(_start, words).result()
    except OSError as error:
        raise CommandError(f"cannot run {error.filename or words[0]}: {error.strerror}") from None
    except RuntimeError as error:  # no thread, as where there may be no more of them
        raise CommandError(f"cannot run {words[0]}: {error}") from None
    try:
        output, errors = _read(process, seconds, called_off or threading.Event())
    except OSError as error:  # there may be no more descriptors
        raise CommandError(f"cannot read what it prints: {error.strerror}") from None
    finally:
        # Not waited for yet, it keeps its number, so that nobody else is killed.
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one of another user can not be killed
            process.wait(_LAST_SECONDS)
    if process.returncode:
        raise CommandError(_status(process.returncode) + _first_line(errors))
    return _labels(output)


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts the command from a thread that is used for nothing else. Raises OSError."""
    import ctypes  # late, as shlex is

    libc = ctypes.CDLL(None, use_errno=True)
    # capset(2) could drop more, but services are not let use it. What is left has no effect on what is executed, but
    # for the rights of root, who needs no ambient ones.
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "its capabilities can not be dropped")
    return subprocess.Popen(  # noqa: S603 - the words are those of the settings, and there is no shell
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


def _read(process: subprocess.Popen[bytes], seconds: float, called_off: threading.Event) -> tuple[bytes, bytes]:
    """Reads until the command ends: what it has started may hold on to its pipes for ever. Raises CommandError."""
    assert process.stdout is not None, "a pipe"
    assert process.stderr is not None, "a pipe"
    deadline = time.monotonic() + seconds
    output, errors = bytearray(), bytearray()
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while True:
            ended = _has_ended(process)  # before its pipes are looked at: then all that it wrote is in them
            ready = selector.select(0 if ended else _LOOK_SECONDS)
            if ended and not ready:
                return bytes(output), bytes(errors)
            for key, _ in ready:
                if chunk := os.read(key.fd, MAX_OUTPUT_BYTES):
                    key.data.extend(chunk)
                else:
                    selector.unregister(key.fileobj)
            del errors[MAX_OUTPUT_BYTES:]  # of which the first line counts
            if len(output) > MAX_OUTPUT_BYTES:
                raise CommandError(f"it prints more than {MAX_OUTPUT_BYTES:,} bytes; labels are a line each")
            if called_off.is_set():
                raise CommandError("it was called off")
            if time.monotonic() > deadline:
                raise CommandError(f"it does not end within {format_duration(seconds)}")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, without waiting for it."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # where SIGCHLD is ignored, nothing is left of it
        return True


def _status(code: int) -> str:
    return f"it was killed by signal {-code}" if code < 0 else f"its exit status is {code}"


def _first_line(errors: bytes) -> str:
    first = errors.decode("utf-8", "replace").strip().partition("\n")[0].strip()
    return f": {printable(first[:_MAX_QUOTED])}" if first else ""


def _labels(output: bytes) -> dict[str, str]:
    try:
        return label_lines(output.decode("utf-8"), "line ")
    except UnicodeDecodeError as error:
        raise CommandError(f"what it prints is not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise CommandError(f"what it prints is no list of labels: {error}") from None
