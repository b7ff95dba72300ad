"""What the threads of a process do, and whether they get to run: in a fake tree, and on the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from leaklab.cpu_quota import cpu_quota
from loiter_agent.collectors.activity import ActivityCollector
from loiter_agent.procfs import Procfs, SchedStat, Unreadable
from loiter_agent.sample import Activity, ProcessKey
from support.proctree_fake import ProcTree
from support.programs import wait_until

KEY = ProcessKey(42, 42)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A process in a fake tree, and a collector that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        self.clock = Clock()
        self.tree.add(KEY.pid, cgroup="/app.slice/web.service")
        self.tree.thread(KEY.pid, KEY.pid)
        self.cgroup = self.tree.cgroups / "app.slice/web.service"
        self.procfs = CountingFiles(self.tree.root)
        self.collector = ActivityCollector(self.procfs, self.clock)

    def look(self, seconds: float = 10.0) -> Activity:
        """Looks after some time has passed."""
        self.clock.now += seconds
        return self.collector.collect([KEY])[KEY]

    def threads(self, first: int, last: int) -> None:
        """Adds threads that sleep."""
        for thread in range(first, last + 1):
            self.tree.thread(KEY.pid, thread, wait_channel="futex_do_wait")


class CountingFiles(Procfs):
    """Notes of which threads a file is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.states: list[int] = []
        self.schedstats: list[int] = []

    def thread_state(self, pid: int, thread: int) -> str:
        self.states.append(thread)
        return super().thread_state(pid, thread)

    def schedstat(self, pid: int, thread: int) -> SchedStat | None:
        self.schedstats.append(thread)
        return super().schedstat(pid, thread)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


class TestThreads:
    def test_states_and_wait_channels_are_counted(self, watched: Watched) -> None:
        """One that runs sleeps nowhere, and where a sleeper sleeps may be unknown."""
        watched.tree.thread(42, 42, "R", "not_asked_for")
        watched.tree.thread(42, 43, "S", "futex_do_wait")
        watched.tree.thread(42, 44, "S", "futex_do_wait")
        watched.tree.thread(42, 45, "D", "io_schedule")
        watched.tree.thread(42, 46, "S", "0")
        activity = watched.look()
        assert (activity.threads, activity.threads_read) == (5, 5)
        assert activity.thread_states == {"R": 1, "S": 3, "D": 1}
        assert activity.wait_channels == {"futex_do_wait": 2, "io_schedule": 1}

    def test_of_many_threads_some_are_looked_at_in_turn(self, watched: Watched) -> None:
        """Within a bound, the main thread every time, and every thread some time."""
        watched.threads(43, 341)
        seen: set[int] = set()
        for _ in range(5):
            watched.procfs.schedstats.clear()
            activity = watched.look()
            assert (activity.threads, activity.threads_read) == (300, 64)
            assert 42 in watched.procfs.schedstats
            assert len(set(watched.procfs.schedstats)) == 64
            seen.update(watched.procfs.schedstats)
        assert seen == set(range(42, 342))

    def test_all_processes_together_are_within_a_bound(self, watched: Watched) -> None:
        """Each gets its share of it."""
        keys = [ProcessKey(pid, pid) for pid in range(100, 150)]
        for key in keys:
            watched.tree.add(key.pid)
            for thread in (key.pid, *range(key.pid * 1_000, key.pid * 1_000 + 21)):
                watched.tree.thread(key.pid, thread)
        activities = watched.collector.collect(keys)
        assert {activity.threads_read for activity in activities.values()} == {20}

    def test_a_thread_that_has_not_run_is_not_read_again(self, watched: Watched) -> None:
        """It sleeps where it slept. The main thread is read every time."""
        watched.threads(43, 50)
        first = watched.look()
        watched.procfs.states.clear()
        watched.tree.thread(42, 47, "S", "ep_poll", timeslices=11)
        second = watched.look()
        assert watched.procfs.states == [42, 47]
        assert second.thread_states == first.thread_states
        assert second.wait_channels == {"futex_do_wait": 7, "ep_poll": 1}

    def test_a_thread_that_ends_meanwhile_is_left_out(self, watched: Watched) -> None:
        """Which is normal."""
        watched.threads(43, 44)
        (watched.tree.root / "42/task/43/schedstat").unlink()
        activity = watched.look()
        assert (activity.threads, activity.threads_read) == (3, 2)

    def test_kinds_are_bounded(self, watched: Watched) -> None:
        """By what may go over the wire: the most frequent are kept."""
        for thread in range(43, 73):
            watched.tree.thread(42, thread, wait_channel=f"place_{thread}")
        watched.tree.thread(42, 73, wait_channel="place_43")
        channels = watched.look().wait_channels
        assert len(channels) == 16
        assert channels["place_43"] == 2


class TestRunDelay:
    def test_it_is_that_of_the_thread_that_waits_most(self, watched: Watched) -> None:
        """Seconds waited for each second between two looks; unknown in the first."""
        watched.threads(43, 44)
        assert watched.look().run_delay_share is None
        watched.tree.thread(42, 43, waited=2.0, timeslices=11)
        watched.tree.thread(42, 44, waited=9.0, timeslices=11)
        assert watched.look(10).run_delay_share == pytest.approx(0.9)
        assert watched.look(10).run_delay_share == 0

    def test_a_thread_that_never_got_to_run_waited_all_the_time(self, watched: Watched) -> None:
        """The kernel adds a wait when it ends."""
        watched.tree.thread(42, 42, "R")
        watched.look()
        assert watched.look().run_delay_share == 1

    def test_a_new_thread_with_an_old_id_is_another(self, watched: Watched) -> None:
        """It has waited less than the old one, which tells nothing."""
        watched.tree.thread(42, 42, waited=50)
        watched.look()
        watched.tree.thread(42, 42, waited=1, timeslices=1)
        assert watched.look().run_delay_share is None

    def test_a_kernel_without_such_figures_leaves_it_unknown(self, watched: Watched) -> None:
        """And states are read nevertheless."""
        watched.tree.thread(42, 42, ran=0, waited=0, timeslices=0)
        watched.look()
        activity = watched.look()
        assert activity.run_delay_share is None
        assert activity.thread_states == {"S": 1}

    def test_it_is_over_the_time_since_the_thread_was_looked_at(self, watched: Watched) -> None:
        """Which may be some ticks ago where threads take turns."""
        watched.threads(43, 42 + 126)
        watched.look()  # the main thread and the first half of the others
        watched.look()  # and the second half
        watched.tree.thread(42, 43, waited=10, timeslices=11)
        assert watched.look(10).run_delay_share == pytest.approx(10 / 20)


class TestCgroups:
    def test_throttling_is_a_share_of_the_time(self, watched: Watched) -> None:
        """Unknown at first; the kernel adds up the processors, so it is cut at 1."""
        stat = watched.cgroup / "cpu.stat"
        stat.write_text("nr_periods 10\nnr_throttled 5\nthrottled_usec 1000000\n")
        assert watched.look().throttled_share is None
        stat.write_text("nr_periods 20\nnr_throttled 9\nthrottled_usec 5000000\n")
        assert watched.look(10).throttled_share == pytest.approx(0.4)
        stat.write_text("nr_periods 30\nnr_throttled 19\nthrottled_usec 25000000\n")
        assert watched.look(10).throttled_share == 1

    def test_without_a_quota_there_is_no_throttling(self, watched: Watched) -> None:
        """The kernel writes zeros then: no period was counted."""
        (watched.cgroup / "cpu.stat").write_text("nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n")
        watched.look()
        assert watched.look().throttled_share is None

    def test_the_quota_of_an_ancestor_counts(self, watched: Watched) -> None:
        """As that of a pod does for its containers."""
        stat = watched.cgroup.parent / "cpu.stat"
        stat.write_text("nr_periods 10\nnr_throttled 5\nthrottled_usec 1000000\n")
        watched.look()
        stat.write_text("nr_periods 20\nnr_throttled 9\nthrottled_usec 9000000\n")
        assert watched.look(10).throttled_share == pytest.approx(0.8)

    def test_a_v1_hierarchy_is_where_quotas_are(self, tmp_path: Path) -> None:
        """On a host that has both, version 2 has none; nanoseconds there."""
        watched = Watched(tmp_path)
        folder = watched.tree.add_cpu_hierarchy() / "quota"
        folder.mkdir()
        watched.tree.write("42/cgroup", "5:cpu,cpuacct:/quota\n0::/app.slice/web.service\n")
        watched.collector = ActivityCollector(watched.procfs, watched.clock)
        (folder / "cpu.stat").write_text("nr_periods 10\nnr_throttled 5\nthrottled_time 1000000000\n")
        watched.look()
        (folder / "cpu.stat").write_text("nr_periods 20\nnr_throttled 9\nthrottled_time 8000000000\n")
        assert watched.look(10).throttled_share == pytest.approx(0.7)

    def test_pressure_is_that_of_its_own_cgroup(self, watched: Watched) -> None:
        """From the first look on."""
        (watched.cgroup / "cpu.pressure").write_text("some avg10=87.50 avg60=0.00 avg300=0.00 total=1\n")
        (watched.cgroup / "io.pressure").write_text("some avg10=3.00 avg60=0.00 avg300=0.00 total=1\n")
        activity = watched.look()
        assert activity.cpu_pressure == pytest.approx(0.875)
        assert activity.io_pressure == pytest.approx(0.03)

    def test_pressure_on_the_host_accuses_no_process(self, watched: Watched) -> None:
        """A process of the root has none of its own."""
        (watched.tree.cgroups / "cpu.pressure").write_text("some avg10=99.00 avg60=0.00 avg300=0.00 total=1\n")
        watched.tree.write("pressure/cpu", "some avg10=99.00 avg60=0.00 avg300=0.00 total=1\n")
        watched.tree.write("42/cgroup", "0::/\n")
        assert watched.look().cpu_pressure is None

    def test_a_host_without_cgroups_leaves_it_unknown(self, tmp_path: Path) -> None:
        """The rest is read."""
        watched = Watched(tmp_path)
        watched.tree.write("self/mountinfo", "")
        watched.tree.write("42/cgroup", "")
        watched.collector = ActivityCollector(watched.procfs, watched.clock)
        watched.look()
        activity = watched.look()
        assert (activity.throttled_share, activity.cpu_pressure, activity.io_pressure) == (None, None, None)
        assert activity.threads == 1


class TestProcesses:
    def test_one_that_is_gone_is_left_out(self, watched: Watched) -> None:
        """The others are looked at."""
        assert list(watched.collector.collect([ProcessKey(7, 7), KEY])) == [KEY]

    def test_one_that_may_not_be_read_is_unknown(self, watched: Watched) -> None:
        """Not without threads."""

        class Hiding(Procfs):
            def threads(self, pid: int) -> list[int]:
                raise Unreadable(f"{pid}")

        activity = ActivityCollector(Hiding(watched.tree.root)).collect([KEY])[KEY]
        assert activity == Activity(None, 0, {}, {}, None, None, None, None)

    def test_one_that_is_not_asked_for_is_forgotten(self, watched: Watched) -> None:
        """Its next look is a first one."""
        watched.look()
        watched.collector.collect([])
        assert watched.look().run_delay_share is None

    def test_a_reused_pid_is_another_process(self, watched: Watched) -> None:
        """The start time tells."""
        watched.look()
        again = replace(KEY, start_ticks=43)
        assert watched.collector.collect([again])[again].run_delay_share is None


class TestThisKernel:
    def test_a_thread_on_a_lock_waits_for_no_processor(self) -> None:
        """The real thing: it sleeps, and its share is next to nothing."""
        procfs, pid = Procfs(), os.getpid()
        key = ProcessKey(pid, procfs.stat(pid).start_ticks)
        clock = Clock()
        collector = ActivityCollector(procfs, clock)
        lock = threading.Lock()
        with lock:
            blocked = threading.Thread(target=lock.acquire)
            blocked.start()
            assert blocked.native_id is not None
            thread = blocked.native_id
            wait_until(lambda: procfs.thread_state(pid, thread) == "S", 10, "the thread sleeps")
            first = collector.collect([key])[key]
            ran = time.thread_time()
            while time.thread_time() < ran + 0.05:  # so that the kernel has seen this thread run
                pass
            clock.now += 10
            second = collector.collect([key])[key]
        blocked.join()
        assert first.threads is not None
        assert first.threads >= 2
        assert first.thread_states["S"] >= 1
        assert second.run_delay_share is None or second.run_delay_share < 0.5

    def test_a_process_with_a_quota_of_5_percent_is_starved(self) -> None:
        """The real thing: it waits for most of the time, and is told to be held back by its quota."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to make a cgroup")
        procfs = Procfs()
        with cpu_quota(0.05) as folder, subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
            try:
                (folder / "cgroup.procs").write_text(str(process.pid))
                key = ProcessKey(process.pid, procfs.stat(process.pid).start_ticks)
                collector = ActivityCollector(procfs)
                wait_until(lambda: _starved(collector.collect([key])[key]), 20, "it is seen to starve")
            finally:
                process.kill()


def _starved(activity: Activity) -> bool:
    return (activity.run_delay_share or 0) > 0.5 and (activity.throttled_share or 0) > 0.5


def test_of_a_thousand_threads_a_few_are_looked_at_in_turn() -> None:
    """A real process with so many: the cost of a tick is bounded, and every thread has its turn."""
    program = (
        "import sys, threading\n"
        "gate = threading.Event()\n"
        "threading.stack_size(65_536)\n"
        "for _ in range(1_000): threading.Thread(target=gate.wait, daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        procfs = Procfs()
        key = ProcessKey(process.pid, procfs.stat(process.pid).start_ticks)
        collector = ActivityCollector(procfs)
        for _ in range(3):
            activity = collector.collect([key])[key]
            assert activity.threads == 1_001
            assert activity.threads_read == 64
        assert activity.wait_channels, "where they sleep is known"
