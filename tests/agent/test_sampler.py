"""A sample as a whole: what is known, what is not, and what fails."""

from __future__ import annotations

import logging
import os
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from loiter_agent import sampler as sampler_module
from loiter_agent.clock import since_boot
from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.collectors.tcp_psutil import PsutilTcpCollector
from loiter_agent.identity import Identities
from loiter_agent.procfs import Procfs
from loiter_agent.sample import (
    Ages,
    CloseWaitSockets,
    Coverage,
    Degradation,
    Namespace,
    Peer,
    ProcessFds,
    ProcessKey,
    ProcessSockets,
    TcpCounts,
    TcpSnapshot,
    TcpStates,
)
from loiter_agent.sampler import Bounds, Sampler

# No process of this machine has such a pid.
HOLDER, HIDDEN, IDLE, AWAY = (ProcessKey(5_000_000 + number, 1) for number in range(4))
OWN, OTHER = 1, 2


class FakeTcp:
    """Yields one snapshot, or fails. Stands for the kernel's socket table."""

    name = "tcp"

    def __init__(self, snapshot: TcpSnapshot | None) -> None:
        self.snapshot = snapshot

    def collect(self, scan: ProcessScan, detailed: bool = True) -> TcpSnapshot:  # noqa: ARG002 - as a collector has it
        if self.snapshot is None:
            raise OSError("Operation not permitted")
        return self.snapshot if detailed else without_detail(self.snapshot)

    def count(self) -> TcpCounts:
        if self.snapshot is None:
            raise OSError("Operation not permitted")
        return TcpCounts("sock_diag", self.snapshot.states)

    def set_interval(self, interval: float) -> None:
        """Keeps nothing."""

    def close(self) -> None:
        """Holds nothing."""


def without_detail(snapshot: TcpSnapshot) -> TcpSnapshot:
    """What a collector yields that does not look into sockets."""
    return replace(
        snapshot,
        by_process={key: replace(one, detail=None, time_wait=None) for key, one in snapshot.by_process.items()},
    )


SNAPSHOT = TcpSnapshot(
    sampler="sock_diag",
    states=TcpStates(close_wait=8),
    by_process={HOLDER: ProcessSockets(established=1, close_wait=5, total=6)},
    attributed=6,
    unattributed=3,
    ownerless=0,
    torn=False,
    time_wait=(),
    namespaces=(Namespace(OWN, "host", "sock_diag"), Namespace(OTHER, "", None, AWAY)),
)
SCAN = ProcessScan(
    {
        HOLDER: ProcessFds(HOLDER, "holder", 9, 1_024, namespace=OWN),
        HIDDEN: ProcessFds(HIDDEN, "hidden", 500, 1_024, readable=False),
        AWAY: ProcessFds(AWAY, "away", 400, 1_024, namespace=OTHER),
        IDLE: ProcessFds(IDLE, "idle", 3, 1_024, namespace=OWN),
    },
    unreadable=1,
    vanished=0,
    namespaces={OWN: HOLDER, OTHER: AWAY},
)

DETAIL = CloseWaitSockets(
    count=5,
    settled=5,
    survived=1.0,
    eof_read=5,
    fin_unread=0,
    farewell_unread=0,
    data_unread=0,
    never_accepted=0,
    client_side=0,
    stuck=4,
    ages=Ages(70.0, 90.0, 90.0),
    peers=(Peer("10.0.0.2", None, 5),),
    accept_queue=None,
    growth_per_second=2.0,
)


def sampler_of(monkeypatch: pytest.MonkeyPatch, tcp: TcpSnapshot | None, scan: ProcessScan | None) -> Sampler:
    """A sampler whose collectors yield these; None stands for one that fails."""

    def collect(_: ProcessScanner) -> ProcessScan:
        if scan is None:
            raise OSError("no procfs")
        return scan

    monkeypatch.setattr(sampler_module, "open_tcp_collector", lambda *_: FakeTcp(tcp))
    monkeypatch.setattr(ProcessScanner, "collect", collect)
    return Sampler(Procfs(), Bounds())


def test_a_process_whose_sockets_are_not_seen_has_an_unknown_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, or in a container: not 0. One that is seen and holds none has 0."""
    rows = {row.pid: row for row in sampler_of(monkeypatch, SNAPSHOT, SCAN).sample().processes}
    holder, hidden, away, idle = (rows[key.pid] for key in (HOLDER, HIDDEN, AWAY, IDLE))
    assert (holder.close_wait, holder.sockets) == (5, 6)
    for one, fd_open in ((hidden, 500), (away, 400)):
        assert (one.close_wait, one.established, one.sockets, one.time_wait) == (None, None, None, None)
        assert (one.stuck, one.peers, one.fd_open) == (None, None, fd_open)
    assert (idle.close_wait, idle.sockets, idle.time_wait, idle.stuck, idle.peers) == (0, 0, 0, 0, ())


def test_time_wait_alone_tells_nothing_of_a_process_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer says that it closed connections: what it holds is unknown all the same."""
    charged = {HIDDEN: ProcessSockets(time_wait=5), IDLE: ProcessSockets(time_wait=5)}
    sample = sampler_of(monkeypatch, replace(SNAPSHOT, by_process=charged), SCAN).sample()
    rows = {row.pid: row for row in sample.processes}
    assert (rows[HIDDEN.pid].close_wait, rows[HIDDEN.pid].sockets) == (None, None)
    assert (rows[IDLE.pid].close_wait, rows[IDLE.pid].sockets, rows[IDLE.pid].time_wait) == (0, 0, 5)


def test_namespaces_that_are_not_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that have no name are called by what runs there."""
    sample = sampler_of(monkeypatch, SNAPSHOT, SCAN).sample()
    assert (sample.coverage.namespaces, sample.coverage.namespaces_unread) == (2, 1)
    assert [(one.name, one.read) for one in sample.namespaces] == [("host", True), ("away", False)]


def test_close_wait_sockets_come_with_a_cause_and_a_time_to_exhaustion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two a second until 1,024 descriptors are open, nine being so."""
    charged = {HOLDER: ProcessSockets(close_wait=5, total=5, detail=DETAIL)}
    # Limits are read anew from the real process, which is not there.
    monkeypatch.setattr(ProcessScanner, "fd_limits", lambda *_: (1_024, 4_096))
    sample = sampler_of(monkeypatch, replace(SNAPSHOT, by_process=charged), SCAN).sample()
    row = next(row for row in sample.processes if row.pid == HOLDER.pid)
    assert (row.cause, row.stuck, row.close_wait_age_seconds) == ("leak", 4, Ages(70.0, 90.0, 90.0))
    assert row.peers == (Peer("10.0.0.2", None, 5),)
    assert row.evidence is not None
    assert row.evidence.eof_read == 5
    assert row.fd_eta_seconds == (1_024 - 9) / 2
    assert row.fd_limit_hard == 4_096


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
    snapshot = PsutilTcpCollector(Procfs()).collect(ProcessScanner(Procfs()).collect())
    counted = sum(getattr(snapshot.states, name) or 0 for name in TcpStates.__slots__)
    assert snapshot.attributed + snapshot.unattributed + snapshot.ownerless == counted
    assert snapshot.time_wait is None, "psutil can not tell whose they were"
    assert [one.id for one in snapshot.namespaces] == [Procfs().own_network_namespace()]


def test_no_time_wait_is_not_said_of_a_process_while_there_are_some_that_may_be_its(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody knows whose those in its namespace were; those of another namespace are not its."""
    charged = {HOLDER: ProcessSockets(total=6, time_wait=3), IDLE: ProcessSockets(total=1, time_wait=0)}
    snapshot = replace(SNAPSHOT, by_process=charged)
    for namespace, expected in ((OWN, None), (OTHER, 0)):
        taken = sampler_of(monkeypatch, replace(snapshot, time_wait_nobodys=frozenset({namespace})), SCAN).sample()
        rows = {row.pid: row.time_wait for row in taken.processes}
        assert (rows[HOLDER.pid], rows[IDLE.pid]) == (3, expected)


def test_settings_can_be_changed_between_two_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told to be sent is not sent any more, and the interval reaches what depends on it."""
    one = sampler_of(monkeypatch, SNAPSHOT, SCAN)
    intervals: list[float] = []
    monkeypatch.setattr(FakeTcp, "set_interval", lambda _, interval: intervals.append(interval))
    told: list[bool] = []
    monkeypatch.setattr(Identities, "configure", lambda _, arguments: told.append(arguments))
    one.configure(Bounds(top=1, limit=2), 60.0, arguments=True)
    assert (one.bounds, intervals, told) == (Bounds(1, 2), [60.0], [True])


def test_a_mistake_of_ours_in_one_collector_does_not_end_the_sample(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, with where it happened, and the other sections are there."""
    one = sampler_of(monkeypatch, SNAPSHOT, SCAN)
    monkeypatch.setattr(FakeTcp, "collect", lambda *_: [][1])
    sample = one.sample()
    assert [status.name for status in sample.collectors if status.error] == ["tcp"]
    assert sample.host_fds is not None
    assert "IndexError" in caplog.text


def test_the_share_of_descriptors_that_are_sockets_leaves_out_those_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connections that wait to be accepted are the process's, but take no descriptor."""
    (fds,) = [process.fd_open for key, process in SCAN.processes.items() if key == HOLDER]
    assert fds
    detail = replace(DETAIL, unaccepted=4)
    charged = {HOLDER: ProcessSockets(close_wait=5, total=6, detail=detail)}
    rows = sampler_of(monkeypatch, replace(SNAPSHOT, by_process=charged), SCAN).sample().processes
    shares = {row.pid: row.fd_socket_share for row in rows}
    assert shares[HOLDER.pid] == pytest.approx(2 / fds)
    assert shares[HIDDEN.pid] is None


def test_a_sample_says_when_it_was_taken_on_a_clock_that_never_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_BOOTTIME, before anything was looked at."""
    before = since_boot()
    sample = sampler_of(monkeypatch, SNAPSHOT, SCAN).sample()
    assert before <= sample.since_boot <= since_boot() - sample.cost.wall_seconds


def test_without_detail_counts_stay_and_reasons_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not 0, and not that there are none. Nobody looks at threads."""
    charged = {HOLDER: ProcessSockets(close_wait=5, total=5, time_wait=3, detail=DETAIL)}
    one = sampler_of(monkeypatch, replace(SNAPSHOT, by_process=charged), SCAN)
    sample = one.sample(Degradation.NO_DETAIL)
    row = next(row for row in sample.processes if row.pid == HOLDER.pid)
    assert sample.degradation == Degradation.NO_DETAIL
    assert (row.close_wait, row.sockets, row.fd_open) == (5, 5, 9)
    assert (row.cause, row.evidence, row.close_wait_age_seconds) == (None, None, None)
    assert (row.stuck, row.peers, row.time_wait, row.fd_eta_seconds) == (None, None, None, None)
    assert [status.name for status in sample.collectors] == ["processes", "tcp", "host_fds"]
    assert one.sample().processes[0].cause == "leak"


def test_with_counts_only_nothing_is_said_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that there are none: the coverage of everything else is unknown."""
    sample = sampler_of(monkeypatch, SNAPSHOT, SCAN).sample(Degradation.COUNTS_ONLY)
    assert (sample.degradation, sample.sampler) == (Degradation.COUNTS_ONLY, "sock_diag")
    assert sample.tcp_states == SNAPSHOT.states
    assert sample.host_fds is not None
    assert (sample.processes, sample.other, sample.time_wait, sample.ports) == ((), None, None, None)
    known = {field.name for field in fields(Coverage) if getattr(sample.coverage, field.name) is not None}
    assert known == {"dump_torn"}
    assert [status.name for status in sample.collectors] == ["tcp", "host_fds"]
    assert sample.cost.cpu_seconds > 0


def test_a_process_keeps_its_start_time_while_it_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of what the process is known by. A clock that is set meanwhile does not make it another one."""
    own = next(key for key in ProcessScanner(Procfs()).collect().processes if key.pid == os.getpid())
    scan = replace(SCAN, processes={own: ProcessFds(own, "pytest", 9, 1_024, namespace=OWN)})
    one = sampler_of(monkeypatch, replace(SNAPSHOT, by_process={}), scan)
    (before,) = one.sample().processes
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 7_200)
    for degradation in (Degradation.COUNTS_ONLY, Degradation.NO_DETAIL, Degradation.NONE):
        rows = one.sample(degradation).processes
        assert {row.start_time for row in rows} <= {before.start_time}
    assert rows
    (again,) = sampler_of(monkeypatch, replace(SNAPSHOT, by_process={}), scan).sample().processes
    assert again.start_time - before.start_time == timedelta(hours=2), "of an agent that starts after that"


def test_psutil_counts_states_without_looking_at_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states that it counts one by one, as the kernel has them."""
    collector = PsutilTcpCollector(Procfs())
    monkeypatch.setattr(psutil, "net_connections", None)
    counted = collector.count()
    assert counted.sampler == "psutil"
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    assert counted.states.listen == sum(line.split()[3] == "0A" for line in lines)
    assert counted.states.close is None
