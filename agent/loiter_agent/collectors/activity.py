"""Looks at the threads of processes that do not close: what they do, where they sleep, whether they get to run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loiter.limits import MAX_EVIDENCE_ENTRIES
from loiter_agent.procfs import (
    CgroupMount,
    ProcessVanished,
    Procfs,
    SchedStat,
    Throttling,
    Unreadable,
    parse_cpu_cgroup,
    parse_unified_cgroup,
)
from loiter_agent.sample import Activity, ProcessKey

# How many threads are looked at, of one process and of all together in a tick: 10 µs for one that sleeps, 30 µs for one
# that runs. Of a process with more they are looked at in turn, the main thread always.
_THREADS_OF_PROCESS: Final = 64
_THREADS_PER_TICK: Final = 1_000


@dataclass(frozen=True, slots=True)
class _ThreadLook:
    """One look at a thread, at a time of the collector's clock."""

    time: float
    schedstat: SchedStat | None
    state: str
    wait_channel: str | None

    def slept_until(self, schedstat: SchedStat | None) -> bool:
        """Tells whether the thread still sleeps where it slept, by later figures: it has not run, nor got to run."""
        return self.state != "R" and schedstat is not None and schedstat == self.schedstat

    def run_delay_since(self, before: _ThreadLook) -> float | None:
        """The share of the time since another look that the thread waited for a processor."""
        elapsed = self.time - before.time
        if self.schedstat is None or before.schedstat is None or elapsed <= 0:
            return None
        waited = self.schedstat.waited - before.schedstat.waited
        if waited < 0:  # another thread with the same id
            return None
        if self.state == before.state == "R" and self.schedstat == before.schedstat:
            return 1.0  # it has not run once, and a wait is added only when it ends
        return min(waited / elapsed, 1.0)


@dataclass(slots=True)
class _Watch:
    """What is kept of a process: the last look at each of its threads, and whose turn it is."""

    looks: dict[int, _ThreadLook] = field(default_factory=dict)
    turn: int = 0

    def choose(self, threads: Sequence[int], main: int, limit: int) -> Sequence[int]:
        """Chooses which threads to look at: all if they are few, else the main one and those whose turn it is."""
        if len(threads) <= limit:
            return threads
        others = [thread for thread in threads if thread != main]
        start = self.turn % len(others)
        self.turn = start + limit - 1
        return [main, *(others[start:] + others[:start])[: limit - 1]]


class ActivityCollector:
    """Looks again and again: how much of its time a process waits for a processor is told by two looks."""

    name = "activity"

    def __init__(self, procfs: Procfs, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the procfs to read and a clock that never goes back, in seconds."""
        self._procfs = procfs
        self._clock = clock
        self._cgroups = _Cgroups(procfs)
        self._watches: dict[ProcessKey, _Watch] = {}

    def collect(self, keys: Sequence[ProcessKey]) -> dict[ProcessKey, Activity]:
        """Looks at these processes, and forgets all others. Those that have ended are left out of the answer."""
        limit = max(1, min(_THREADS_OF_PROCESS, _THREADS_PER_TICK // max(1, len(keys))))
        self._watches = {key: self._watches.get(key) or _Watch() for key in keys}
        self._cgroups.begin(self._clock())
        activities = {}
        for key, watch in self._watches.items():
            try:
                activities[key] = self._look(key.pid, watch, limit)
            except ProcessVanished:
                continue
            except Unreadable:  # hidepid
                activities[key] = Activity(None, 0, {}, {}, None, None, None, None)
        return activities

    def _look(self, pid: int, watch: _Watch, limit: int) -> Activity:
        threads = self._procfs.threads(pid)
        before, watch.looks = watch.looks, {thread: watch.looks[thread] for thread in threads if thread in watch.looks}
        looks: list[_ThreadLook] = []
        delays: list[float | None] = []
        for thread in watch.choose(threads, pid, limit):
            last = before.get(thread)
            try:
                look = self._look_at_thread(pid, thread, last)
            except ProcessVanished:
                continue
            looks.append(look)
            delays.append(look.run_delay_since(last) if last is not None else None)
            watch.looks[thread] = look
        cgroups = self._cgroups.of(pid)
        return Activity(
            threads=len(threads),
            threads_read=len(looks),
            thread_states=_most(look.state for look in looks),
            wait_channels=_most(look.wait_channel for look in looks),
            run_delay_share=max((delay for delay in delays if delay is not None), default=None),
            throttled_share=self._cgroups.throttled_share(cgroups.cpu),
            cpu_pressure=self._cgroups.pressure(cgroups.unified, "cpu.pressure"),
            io_pressure=self._cgroups.pressure(cgroups.unified, "io.pressure"),
        )

    def _look_at_thread(self, pid: int, thread: int, last: _ThreadLook | None) -> _ThreadLook:
        now, schedstat = self._clock(), self._procfs.schedstat(pid, thread)
        if last is not None and last.slept_until(schedstat) and thread != pid:
            # Two files less to read of each of the many threads of a pool.
            return _ThreadLook(now, schedstat, last.state, last.wait_channel)
        state = self._procfs.thread_state(pid, thread)
        channel = self._procfs.wait_channel(pid, thread) if state != "R" else None
        return _ThreadLook(now, schedstat, state, channel)


def _most(found: Iterable[str | None]) -> Mapping[str, int]:
    counts = Counter(one for one in found if one is not None)
    return dict(counts.most_common(MAX_EVIDENCE_ENTRIES))


@dataclass(frozen=True, slots=True)
class _ProcessCgroups:
    """The folders of a process's cgroup, and its ancestors': where quotas are set, and in the v2 hierarchy."""

    cpu: Sequence[Path]
    unified: Sequence[Path]


class _Cgroups:
    """Reads what a CPU quota and its neighbours do to a process. Each cgroup is read once in a tick."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._cpu_mount = self._mount("cpu")
        self._unified_mount = self._mount(None)
        self._now = 0.0
        self._before: Mapping[Path, tuple[float, Throttling | None]] = {}
        self._throttlings: dict[Path, tuple[float, Throttling | None]] = {}
        self._found: dict[bytes, _ProcessCgroups] = {}
        self._pressures: dict[Path, float | None] = {}

    def begin(self, now: float) -> None:
        """Starts a tick."""
        self._now = now
        self._before, self._throttlings = self._throttlings, {}
        self._found, self._pressures = {}, {}

    def of(self, pid: int) -> _ProcessCgroups:
        """Finds the cgroups of a process. They are none for one of the root or out of sight."""
        text = self._procfs.cgroup(pid)
        if text not in self._found:
            unified = _folders(self._unified_mount, parse_unified_cgroup(text))
            # With the cpu controller in a v1 hierarchy, version 2 has no quotas.
            cpu = unified if self._cpu_mount is None else _folders(self._cpu_mount, parse_cpu_cgroup(text))
            self._found[text] = _ProcessCgroups(cpu, unified)
        return self._found[text]

    def throttled_share(self, folders: Iterable[Path]) -> float | None:
        """The share of the time since the last tick in which a quota held the cgroup back, its own or an ancestor's.

        None where there is no quota, and in the first tick. The kernel adds up the time over the processors on which
        the cgroup was held back, so this may be too much where a quota is of several, but is never above 1.
        """
        shares = [share for folder in folders if (share := self._throttled_share(folder)) is not None]
        return max(shares, default=None)

    def pressure(self, folders: Sequence[Path], name: str) -> float | None:
        """The share of the last ten seconds in which some task of the cgroup waited.

        None for a process of the root: that would be the whole host's, which says nothing of one process.
        """
        if not folders:
            return None
        file = folders[0] / name
        if file not in self._pressures:
            pressure = self._procfs.pressure_at(file)
            self._pressures[file] = None if pressure is None else pressure.avg10
        return self._pressures[file]

    def _throttled_share(self, folder: Path) -> float | None:
        if folder not in self._throttlings:
            self._throttlings[folder] = self._now, self._procfs.throttling_at(folder / "cpu.stat")
        _, now = self._throttlings[folder]
        read_at, before = self._before.get(folder, (self._now, None))
        if now is None or before is None or not now.periods or self._now <= read_at:
            return None  # periods are counted only while there is a quota
        return max(0.0, min((now.seconds - before.seconds) / (self._now - read_at), 1.0))

    def _mount(self, controller: str | None) -> CgroupMount | None:
        try:
            return self._procfs.cgroup_mount(controller)
        except OSError:
            return None


def _folders(mount: CgroupMount | None, cgroup: str | None) -> list[Path]:
    return [] if mount is None or cgroup is None else mount.folders(cgroup)
