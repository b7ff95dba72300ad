"""Encodes a simulated host as an agent does: its hello, and its reports, with all figures that an agent sends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.duration_pb2 import Duration

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.version import version
from loiter_aggregator.clock import to_duration, to_timestamp
from loiter_aggregator.simulation.close_waits import set_figures, unchanging
from loiter_aggregator.simulation.closings import closings, set_closings
from loiter_aggregator.simulation.draws import Array
from loiter_aggregator.simulation.figures import Drawn, Figures
from loiter_aggregator.simulation.hosts import Process, SimulatedHost
from loiter_aggregator.simulation.life import Run
from loiter_aggregator.simulation.plan import Plan
from loiter_aggregator.simulation.sample_figures import set_cost, set_host
from loiter_aggregator.simulation.template import Template, template
from loiter_aggregator.simulation.wire import VARINTS, tag

# Ticks whose figures are computed at once.
_BLOCK: Final = 16

_REPORT: Final = tag(pb.StreamReportsRequest, "report")
_SENT: Final = tag(pb.StreamReportsRequest, "sent_since_boot")
_SEQUENCE: Final = tag(pb.Report, "sequence")
_TAKEN: Final = tag(pb.Report, "taken_since_boot")
_SAMPLE: Final = tag(pb.Report, "sample")
_PROCESS: Final = tag(sample_pb2.Sample, "processes")
_ESTABLISHED: Final = tag(sample_pb2.ProcessSample, "established")
_CLOSE_WAIT: Final = tag(sample_pb2.ProcessSample, "close_wait")
_SOCKETS: Final = tag(sample_pb2.ProcessSample, "sockets")
_FD_OPEN: Final = tag(sample_pb2.ProcessSample, "fd_open")
_NOT_STUCK: Final = sample_pb2.ProcessSample(stuck=0).SerializeToString()


def hello(plan: Plan, host: SimulatedHost, run: Run, settled: Iterable[tuple[int, int]], now: int) -> bytes:
    """What opens a stream at a time in milliseconds since 1970. `settled` has epochs and sequences."""
    said = pb.Hello(
        interval=to_duration(plan.interval),
        agent_time=to_timestamp(now),
        instance=host.epoch(run),
        settled=[pb.SpoolPosition(spool_epoch=epoch, sequence=sequence) for epoch, sequence in settled],
    )
    said.host.host_id, said.host.hostname, said.host.boot_id = host.host_id, host.hostname, host.boot_id(run)
    said.host.kernel_release, said.host.agent_version = host.kernel_release, version()
    said.host.labels.update(host.labels)
    return pb.StreamReportsRequest(hello=said, sent_since_boot=to_duration(now - run.booted)).SerializeToString()


class Messages:
    """Messages that all hosts of a process are encoded by, since making new ones takes longer."""

    def __init__(self) -> None:
        self.sample = sample_pb2.Sample()
        self.process = sample_pb2.ProcessSample()
        self.duration = Duration()


class Reports:
    """The reports of one host, as they go over its stream."""

    __slots__ = (
        "_block",
        "_closings",
        "_explanations",
        "_figures",
        "_first",
        "_host",
        "_messages",
        "_plan",
        "_processes",
        "_state",
        "_template",
    )

    def __init__(self, plan: Plan, host: SimulatedHost, messages: Messages) -> None:
        """Takes the messages to encode by."""
        self._plan, self._host, self._messages = plan, host, messages
        self._figures = Figures(plan, host)
        self._closings = closings(host)
        self._explanations: dict[tuple[int, bool], bytes] = {}
        # Of the state that the host was in.
        self._state: object = None
        self._template = Template(b"", b"", ())
        self._processes: list[Process] = []
        # Of the ticks from `_first` on.
        self._block: Array | None = None
        self._first = 0

    def report(self, tick: int, run: Run, since_boot: int) -> bytes:
        """The report of a tick, sent at a time in milliseconds since the boot that its stream is of."""
        self._follow(tick, run)
        messages, kept, row = self._messages, self._template, self._row(tick)
        count = self._figures.count
        drawn = Drawn._make(row[5 * count + 1 :])
        # It is sent once all has been read.
        taken = self._host.time_of(tick) * 1_000 - drawn.microseconds
        sequence = run.sequence(tick)
        sample = messages.sample
        sample.ParseFromString(kept.sample)
        sample.sample_time.FromMicroseconds(taken)
        ports = set_closings(sample, self._closings, row[5 * count], drawn)
        set_host(sample, row, count, drawn)
        set_cost(sample, sequence, drawn, self._plan.interval)
        parts = [sample.SerializeToString()]
        for process in self._encoded(row, taken // 1_000, ports):
            parts += (_PROCESS, VARINTS[len(process)], process)
        body = b"".join(parts)
        age = self._lasting(taken - 1_000 * run.booted)
        report = b"".join((kept.report, _SEQUENCE, VARINTS[sequence], _TAKEN, age, _SAMPLE, VARINTS[len(body)], body))
        return b"".join((_REPORT, VARINTS[len(report)], report, _SENT, self._lasting(1_000 * since_boot)))

    def _follow(self, tick: int, run: Run) -> None:
        state = self._host.state(tick)
        if state != self._state:
            self._processes = self._host.processes(tick)
            self._template = template(self._plan, self._host, run, self._processes)
            self._state = state

    def _row(self, tick: int) -> list[int]:
        first = tick - tick % _BLOCK
        if self._block is None or first != self._first:
            self._block, self._first = self._figures.rows(first, _BLOCK).astype("u4"), first
        row: list[int] = self._block[tick - first].tolist()
        return row

    def _encoded(self, row: list[int], now: int, ports: tuple[int, float]) -> Iterator[bytes]:
        """The processes, with their figures."""
        count = self._figures.count
        columns = (row[which * count : (which + 1) * count] for which in range(5))
        rows = zip(self._template.processes, *columns, strict=True)
        for index, (kept, established, close_wait, staying, sockets, fd_open) in enumerate(rows):
            parts = (
                kept,
                _ESTABLISHED,
                VARINTS[established],
                _CLOSE_WAIT,
                VARINTS[close_wait],
                _SOCKETS,
                VARINTS[sockets],
                _FD_OPEN,
                VARINTS[fd_open],
                self._explained(index, close_wait, staying, now, ports) if close_wait or not index else _NOT_STUCK,
            )
            yield b"".join(parts)

    def _explained(self, index: int, close_wait: int, staying: int, now: int, ports: tuple[int, float]) -> bytes:
        """What is said of a process besides its counts."""
        message, process = self._messages.process, self._processes[index]
        if close_wait:
            kept = self._explanations.get((index, staying > 0))
            if kept is None:
                kept = self._explanations[index, staying > 0] = unchanging(self._host, process.slot, staying > 0)
            message.ParseFromString(kept)
            set_figures(message, process.slot, close_wait, staying, (now - process.start) / 1_000)
        else:
            message.Clear()
            message.stuck = 0
        if not index:
            message.time_wait, message.ports_share = ports
        return message.SerializeToString()

    def _lasting(self, microseconds: int) -> bytes:
        """A Duration, with its length before it."""
        duration = self._messages.duration
        duration.FromMicroseconds(microseconds)
        encoded = duration.SerializeToString()
        return VARINTS[len(encoded)] + encoded
