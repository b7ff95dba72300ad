"""Stands in for systemd where only its ear is needed: hears what a service says by sd_notify(3)."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType

from support.programs import wait_until


class ServiceManager:
    """A notify socket, and what was said to it."""

    def __init__(self, folder: Path, name: str = "notify") -> None:
        """Binds a socket in a folder."""
        self._path = folder / name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._socket.setblocking(False)
        self._heard: list[str] = []

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def environment(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        """What systemd puts into the environment of a service."""
        found = {"NOTIFY_SOCKET": str(self._path)}
        return found if watchdog_seconds is None else {**found, "WATCHDOG_USEC": str(round(watchdog_seconds * 1e6))}

    def heard(self) -> list[str]:
        """All that was said so far, message by message."""
        while True:
            try:
                self._heard.append(self._socket.recv(10_000).decode())
            except BlockingIOError:
                return list(self._heard)

    def wait_for(self, text: str, times: int = 1, seconds: float = 20) -> list[str]:
        """Waits until messages that begin with a text have come so often, and returns all messages."""
        wait_until(lambda: self.count(text) >= times, seconds, f"{text!r}, {times} times")
        return self.heard()

    def count(self, text: str) -> int:
        """How many messages begin with a text."""
        return sum(message.startswith(text) for message in self.heard())
