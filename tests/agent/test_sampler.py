"""A sample as a whole: what is known, what is not, and what fails."""

from __future__ import annotations

import logging

import pytest

from loiter_agent import sampler as sampler_module
from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.collectors.tcp_psutil import PsutilTcpCollector
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessFds, ProcessKey, ProcessSockets, TcpSnapshot, TcpStates
from loiter_agent.sampler import Bounds, Sampler

HOLDER, HIDDEN, IDLE = ProcessKey(10, 1), ProcessKey(20, 2), ProcessKey(30, 3)


class FakeTcp:
    """Yields one snapshot, or fails. Stands for the kernel's socket table."""

    name = "tcp"

    def __init__(self, snapshot: TcpSnapshot | None) -> None:
        self.snapshot = snapshot

    def collect(self, scan: ProcessScan) -> TcpSnapshot:  # noqa: ARG002 - the signature of a collector
        if self.snapshot is None:
            raise OSError("Operation not permitted")
        return self.snapshot

    def close(self) -> None:
        """Holds nothing."""


SNAPSHOT = TcpSnapshot(
    sampler="sock_diag",
    states=TcpStates(close_wait=8),
    by_process={HOLDER: ProcessSockets(established=1, close_wait=5, total=6)},
    attributed=6,
    unattributed=3,
    ownerless=0,
    torn=False,
)
SCAN = ProcessScan(
    {
        HOLDER: ProcessFds(HOLDER, "holder", 9, 1_024),
        HIDDEN: ProcessFds(HIDDEN, "hidden", 500, 1_024, sockets_seen=False),
        IDLE: ProcessFds(IDLE, "idle", 3, 1_024),
    },
    unreadable=1,
    vanished=0,
    namespaces=1,
)


def sampler_of(monkeypatch: pytest.MonkeyPatch, tcp: TcpSnapshot | None, scan: ProcessScan | None) -> Sampler:
    """A sampler whose collectors yield these; None stands for one that fails."""

    def collect(_: ProcessScanner) -> ProcessScan:
        if scan is None:
            raise OSError("no procfs")
        return scan

    monkeypatch.setattr(sampler_module, "open_tcp_collector", lambda _: FakeTcp(tcp))
    monkeypatch.setattr(ProcessScanner, "collect", collect)
    return Sampler(Procfs(), Bounds())


def test_a_process_whose_sockets_are_not_seen_has_an_unknown_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, or in a container: not 0. One that is seen and holds none has 0."""
    rows = {row.pid: row for row in sampler_of(monkeypatch, SNAPSHOT, SCAN).sample().processes}
    assert (rows[10].close_wait, rows[10].sockets) == (5, 6)
    assert (rows[20].close_wait, rows[20].established, rows[20].sockets, rows[20].fd_open) == (None, None, None, 500)
    assert (rows[30].close_wait, rows[30].sockets) == (0, 0)


def test_close_wait_that_nobody_is_charged_with_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of the host, five of a process."""
    assert sampler_of(monkeypatch, SNAPSHOT, SCAN).sample().coverage.close_wait_uncharged == 3


def test_a_scan_that_fails_leaves_unknowns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes were seen, which is not that there are none."""
    sample = sampler_of(monkeypatch, SNAPSHOT, None).sample()
    assert sample.other is None
    assert (sample.coverage.processes, sample.coverage.namespaces_unread) == (None, None)
    assert sample.tcp_states.close_wait == 8
    assert [(one.name, one.error) for one in sample.collectors if one.error] == [("processes", "no procfs")]


def test_sockets_that_can_not_be_read_leave_unknowns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Descriptors are reported all the same. It is logged once."""
    sampler = sampler_of(monkeypatch, None, SCAN)
    with caplog.at_level(logging.ERROR):
        samples = [sampler.sample() for _ in range(3)]
    assert samples[2].sampler is None
    assert samples[2].tcp_states == TcpStates()
    assert {row.close_wait for row in samples[2].processes} == {None}
    assert max(row.fd_open or 0 for row in samples[2].processes) == 500
    assert len(caplog.records) == 1


def test_psutil_counts_what_the_real_kernel_has() -> None:
    """The fallback on this machine: every socket is charged, unattributed or ownerless."""
    snapshot = PsutilTcpCollector().collect(ProcessScanner(Procfs()).collect())
    counted = sum(getattr(snapshot.states, name) or 0 for name in TcpStates.__slots__)
    assert snapshot.attributed + snapshot.unattributed + snapshot.ownerless == counted
