"""The spool against a model of it: whatever happens, every sample is waiting, settled or among the losses, once."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_agent.spool import Spool

HOST_ID = "ab" * 16
Result = TypeVar("Result")
SHARED_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
Name = tuple[int, int]  # epoch and sequence


class SpoolMachine(RuleBasedStateMachine):
    """Does to a spool what agents, aggregators and accidents do."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        # In memory where there is such a folder: thousands of writes that no power cut is to survive.
        self.folder = tempfile.TemporaryDirectory(prefix="loiter-spool-", dir=SHARED_MEMORY)
        self.directory = Path(self.folder.name) / "0"
        self.lives = 0
        self.since_boot = 50.0
        self.boots = 0
        self.max_bytes, self.max_age = 30_000, 1_000.0
        self.appended: list[Name] = []
        self.order: dict[Name, int] = {}
        self.settled: set[Name] = set()
        self.rejected: set[Name] = set()
        self.lost: set[Name] = set()
        self.live, self.sequence = 0, 0

    @initialize()
    def open(self) -> None:
        self.spool = Spool(HOST_ID, f"boot-{self.boots}", self.directory, self.max_bytes, self.max_age)
        assert self.spool.instance not in {epoch for epoch, _ in self.appended}, "an epoch is never used again"
        self.live, self.sequence = self.spool.instance, 0

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def reports(self, epoch: int) -> list[pb.Report]:
        found: list[pb.Report] = []
        while page := self.run(self.spool.read(epoch, found[-1].sequence if found else 0)):
            found += page
        return found

    def epochs(self) -> list[int]:
        return list(dict.fromkeys(epoch for epoch, _ in self.appended))

    @rule(size=st.integers(0, 6_000), seconds=st.floats(0, 300), count=st.integers(1, 8))
    def append(self, size: int, seconds: float, count: int) -> None:
        for _ in range(count):
            self.since_boot += seconds
            self.sequence += 1
            name = (self.live, self.sequence)
            self.order[name] = len(self.appended)
            self.appended.append(name)
            sample = sample_pb2.Sample(host_fds=sample_pb2.HostFileDescriptors(allocated=self.order[name]))
            sample.collectors.add(name="x" * size)
            self.run(self.spool.append(sample, self.since_boot))

    @precondition(lambda self: self.appended)
    @rule(pick=st.integers(0, 1_000), back=st.integers(0, 3))
    def acknowledge(self, pick: int, back: int) -> None:
        """Of what was sent at some time, though it may have become part of a loss since."""
        epoch, sequence = self.appended[pick % len(self.appended)]
        sequence = max(1, sequence - back)
        self.run(self.spool.acknowledge(epoch, sequence))
        self.settled |= {name for name in self.appended if name[0] == epoch and name[1] <= sequence}

    @precondition(lambda self: self.waiting())
    @rule(pick=st.integers(0, 1_000))
    def reject(self, pick: int) -> None:
        waiting = self.waiting()
        name = waiting[pick % len(waiting)]
        self.rejected.add(name)
        self.run(self.spool.reject(*name))

    def waiting(self) -> list[Name]:
        return [name for name in self.appended if name not in self.settled | self.rejected | self.lost]

    @rule()
    def begin(self) -> None:
        self.begin_stream()

    def begin_stream(self) -> None:
        lanes = self.run(self.spool.begin())
        if lanes.live.epoch != self.live:
            self.live, self.sequence = lanes.live.epoch, 0
        assert len({position.epoch for position in (lanes.live, *lanes.backlog)}) == 1 + len(lanes.backlog)
        firsts = []
        for position in lanes.backlog:
            reports = self.reports(position.epoch)
            first = reports[0].loss.first_sequence or reports[0].sequence
            assert position.sequence < first
            assert all(
                (position.epoch, number) in self.settled | self.rejected for number in range(1, position.sequence + 1)
            )
            firsts.append(self.order[(position.epoch, reports[0].sequence)])
        assert firsts == sorted(firsts), "the oldest epoch comes first"

    @rule(max_bytes=st.integers(10_000, 60_000), max_age=st.floats(100, 3_000))
    def configure(self, max_bytes: int, max_age: float) -> None:
        self.max_bytes, self.max_age = max_bytes, max_age
        self.spool.configure(max_bytes, max_age)

    @rule(reboot=st.booleans())
    def kill(self, reboot: bool) -> None:
        """What is on the disk at this moment is all that is left."""
        self.lives += 1
        directory = Path(self.folder.name) / str(self.lives)
        shutil.copytree(self.directory, directory)
        self.run(self.spool.close())
        self.directory = directory
        if reboot:
            self.boots += 1
            self.since_boot = 1.0
        self.open()
        self.begin_stream()

    @rule()
    def stop(self) -> None:
        self.run(self.spool.close())
        self.open()
        self.begin_stream()

    @invariant()
    def every_sample_is_in_one_place(self) -> None:
        if not hasattr(self, "spool"):
            return
        waiting: set[Name] = set()
        losses: set[Name] = set()
        count = size = sample_size = 0
        for epoch in self.epochs():
            last = 0
            for report in self.reports(epoch):
                count += 1
                size += report.ByteSize()
                assert report.spool_epoch == epoch
                if report.HasField("loss"):
                    assert last < report.loss.first_sequence <= report.sequence
                    losses |= {(epoch, number) for number in range(report.loss.first_sequence, report.sequence + 1)}
                else:
                    assert last < report.sequence
                    assert report.sample.host_fds.allocated == self.order[(epoch, report.sequence)]
                    sample_size += report.ByteSize()
                    waiting.add((epoch, report.sequence))
                last = report.sequence
        assert not waiting & losses
        assert not losses & self.settled, "what is settled is not lost any more"
        assert not losses & self.rejected
        assert waiting | losses == set(self.appended) - self.settled - self.rejected
        newly = losses - self.lost
        assert max((self.order[name] for name in newly), default=-1) < min(
            (self.order[name] for name in waiting), default=len(self.appended)
        ), "the oldest goes first"
        self.lost |= newly
        assert len(self.spool) == count
        assert self.spool.status().waiting_bytes == size
        assert self.spool.dropped == len(self.lost | self.rejected)
        assert not self.spool.status().in_memory
        assert list(self.directory.glob("*corrupt*")) == []

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.run(self.spool.close())
        self.runner.close()
        self.folder.cleanup()


TestSpoolModel = SpoolMachine.TestCase
TestSpoolModel.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
