"""A network namespace of a test's own: no other program's sockets are in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Netns:
    """A network namespace with its loopback interface up."""

    def __init__(self, pid: int) -> None:
        """Takes the process that keeps it."""
        self._pid = pid

    def command(self, command: Sequence[str | Path]) -> list[str | Path]:
        """The command that runs another one inside."""
        enter: list[str | Path] = ["nsenter", "--target", str(self._pid), "--net"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return [*enter, "--", *command]


@contextmanager
def netns() -> Iterator[Netns]:
    """Keeps a namespace for as long as the block lasts. Without root it comes in a user namespace."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--user", "--map-root-user"]
    keeper = subprocess.Popen(
        [*unshare, "sh", "-c", "ip link set lo up && echo up && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout is not None
    assert keeper.stdin is not None
    try:
        assert keeper.stdout.readline() == b"up\n", "no network namespace to be had"
        yield Netns(keeper.pid)
    finally:
        keeper.stdin.close()
        keeper.stdout.close()
        keeper.wait(10)
