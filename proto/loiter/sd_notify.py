"""Tells systemd how a service is: sd_notify(3), without its library.

Nobody listens where NOTIFY_SOCKET is not set: then nothing is done. What can not be sent is let go of, as sd_notify
does: a service is not to end because of whoever watches it.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from loiter.text import printable

# What a manager that is busy takes to make room for another message.
_TIMEOUT_SECONDS: Final = 1.0
_EXTEND_EVERY_SECONDS: Final = 10.0
_EXTEND_BY_SECONDS: Final = 60.0


class Notifier:
    """Sends notifications to the service manager. Any thread may use it."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        """Takes the socket, a path or, with `@` in front, an abstract name; and within what time to feed the watchdog.

        Without a socket nobody listens; without a time there is no watchdog.
        """
        self._address = _socket_address(address)
        self._said: str | None = None
        self._asked_for = watchdog_seconds if self.is_heard else None
        self.watchdog_seconds = self._asked_for

    @property
    def is_heard(self) -> bool:
        """Whether somebody listens."""
        return self._address is not None

    def ready(self) -> None:
        """Says that the service is up, or has read its settings again."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Says that the settings are read again; `ready` ends that."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")

    def stopping(self) -> None:
        """Says that the service is about to end."""
        self._send("STOPPING=1")

    def status(self, words: str) -> None:
        """Says in a line for people how it is (systemctl status). What was said last is not said again."""
        if words != self._said:
            self._said = words
            self._send(f"STATUS={printable(words)}")

    def feed_watchdog(self) -> None:
        """Says that the service has got its work done: where that fails to come, it is restarted."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def allow_watchdog(self, seconds: float) -> None:
        """Has the watchdog, where there is one, wait for so long, or for as long as systemd was told if that is more.

        Where that is a change, the time counts from now.
        """
        if self._asked_for is None:
            return
        longest = max(self._asked_for, seconds)
        if longest != self.watchdog_seconds:
            self.watchdog_seconds = longest
            self._send(f"WATCHDOG_USEC={round(longest * 1e6)}")

    @contextmanager
    def extending_timeout(self, at_most: float = 3_600.0) -> Iterator[None]:
        """While the block lasts, which may keep its thread busy, asks for more time to start.

        What takes longer than so many seconds hangs.
        """
        if not self.is_heard:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._extend, args=(over, at_most), name="extend timeout", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _extend(self, over: threading.Event, at_most: float) -> None:
        for _ in range(round(at_most / _EXTEND_EVERY_SECONDS)):
            self._send(f"EXTEND_TIMEOUT_USEC={round(_EXTEND_BY_SECONDS * 1e6)}")
            if over.wait(_EXTEND_EVERY_SECONDS):
                return

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(_TIMEOUT_SECONDS)
                sending.sendto("\n".join(assignments).encode("utf-8", "backslashreplace"), self._address)
        except OSError:
            return


def from_environment(environment: Mapping[str, str]) -> Notifier:
    """Makes a notifier of what systemd has put into the environment of this process."""
    return Notifier(environment.get("NOTIFY_SOCKET"), _watchdog_seconds(environment))


def _socket_address(address: str | None) -> bytes | None:
    """The address as the kernel has it; None for one that is none, or of a kind that is not for us (unix(7))."""
    if not address or address[0] not in "@/" or len(address) < 2:
        return None
    name = os.fsencode(address)
    return b"\0" + name[1:] if address[0] == "@" else name


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """The time within which the watchdog of this process is to be fed; None without one (sd_watchdog_enabled(3))."""
    number = environment.get("WATCHDOG_USEC", "")
    if not re.fullmatch("[0-9]{1,18}", number) or int(number) == 0:
        return None
    return int(number) / 1e6 if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()) else None
