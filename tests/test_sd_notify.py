"""What systemd is told: sd_notify(3), over real sockets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loiter.sd_notify import Notifier, from_environment
from support.service_manager import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as one:
        yield one


def test_each_notification_is_what_the_manual_says(manager: ServiceManager) -> None:
    notifier = from_environment(manager.environment(watchdog_seconds=30))
    before = time.monotonic_ns() // 1_000
    notifier.status("opening")
    notifier.ready()
    notifier.feed_watchdog()
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    said = manager.heard()
    reloading, moment = said[3].split("\n")
    assert said[:3] == ["STATUS=opening", "READY=1", "WATCHDOG=1"]
    assert reloading == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1_000
    assert said[4:] == ["READY=1", "STOPPING=1"]


def test_an_abstract_socket_is_one_as_well() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"loiter-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        Notifier(f"@{name}").ready()
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "address", [None, "", "@", "/", "vsock:2:1234", "relative/socket", "/nowhere/notify", "\udcff"]
)
def test_where_nobody_listens_nothing_happens(address: str | None) -> None:
    notifier = Notifier(address, watchdog_seconds=1.0)
    with notifier.extending_timeout():
        notifier.ready()
        notifier.status("up")
        notifier.feed_watchdog()
        notifier.stopping()


def test_a_status_is_one_line_and_is_not_said_twice(manager: ServiceManager) -> None:
    notifier = from_environment(manager.environment())
    for words in ("one\nREADY=1", "one\nREADY=1", "two"):
        notifier.status(words)
    assert manager.heard() == [r"STATUS=one\nREADY=1", "STATUS=two"]


class TestTheWatchdog:
    def test_is_not_fed_where_there_is_none(self, manager: ServiceManager) -> None:
        notifier = from_environment(manager.environment())
        notifier.feed_watchdog()
        notifier.allow_watchdog(100.0)
        assert notifier.watchdog_seconds is None
        assert manager.heard() == []

    def test_of_another_process_is_not_ours(self, manager: ServiceManager) -> None:
        ours = manager.environment(watchdog_seconds=3)
        assert from_environment({**ours, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 3
        assert from_environment({**ours, "WATCHDOG_PID": str(os.getppid())}).watchdog_seconds is None

    @pytest.mark.parametrize("number", ["", "0", "-1", "3.5", "x", "1" * 19, "٣"])
    def test_is_none_where_its_time_can_not_be_read(self, manager: ServiceManager, number: str) -> None:
        environment = {**manager.environment(), "WATCHDOG_USEC": number}
        assert from_environment(environment).watchdog_seconds is None

    def test_waits_for_as_long_as_it_was_told_at_least(self, manager: ServiceManager) -> None:
        notifier = from_environment(manager.environment(watchdog_seconds=30))
        for seconds in (4.0, 40.0, 40.0, 2.0):
            notifier.allow_watchdog(seconds)
        assert manager.heard() == ["WATCHDOG_USEC=40000000", "WATCHDOG_USEC=30000000"]


def test_more_time_to_start_is_asked_for_while_the_block_lasts(manager: ServiceManager) -> None:
    notifier = from_environment(manager.environment())
    with notifier.extending_timeout():
        assert manager.wait_for("EXTEND_TIMEOUT_USEC=60000000")
    notifier.ready()
    assert manager.heard()[-1] == "READY=1"


def test_a_manager_that_does_not_read_holds_nobody_up_for_long(tmp_path: Path) -> None:
    """Its queue is full (net.unix.max_dgram_qlen): the notification is let go of."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
            filling.setblocking(False)
            with suppress(BlockingIOError):
                while filling.sendto(b"full", str(tmp_path / "notify")):
                    pass
        Notifier(str(tmp_path / "notify")).ready()
        assert listening.recv(100) == b"full"
