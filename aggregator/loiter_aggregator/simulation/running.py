"""Runs a simulated fleet: starts workers, watches over them, and ends them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final

from loiter_aggregator.simulation.counts import CONTEXT, Boards, Totals
from loiter_aggregator.simulation.plan import Plan
from loiter_aggregator.simulation.worker import PATIENCE_SECONDS, Target, work

_LOOK_SECONDS: Final = 0.25
# A worker that ends so often, at most so long after it was started, would do so for ever.
_SHORT_SECONDS: Final = 10.0
_MOST_IN_A_ROW: Final = 5
_END_SECONDS: Final = PATIENCE_SECONDS + 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a simulation is; times in seconds. `past` is the part of the past that was delivered, from 0 to 1."""

    elapsed: float
    past: float
    totals: Totals
    complaint: str | None

    @property
    def is_live(self) -> bool:
        """Whether all of the past is delivered."""
        return self.past >= 1.0


class WorkersFail(Exception):
    """Workers end again and again. The message is for a person."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    started: float
    short: int = 0


class Simulation:
    """A fleet that runs in several processes."""

    def __init__(self, plan: Plan, target: Target, workers: int, say: Callable[[str], None]) -> None:
        """Takes the plan, how many processes share the hosts, and how to say what a person should know."""
        self.boards = Boards(workers, plan.hosts)
        self._plan, self._target, self._say = plan, target, say
        self._began = time.monotonic()
        # Ticks before now: the past, which is sent as fast as it is acknowledged.
        self._past_ticks = max(0, (time.time_ns() // 1_000_000 - plan.start) // plan.interval)
        self._workers: list[_Worker] = []

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            time.monotonic() - self._began,
            self.boards.through(self._past_ticks),
            self.boards.totals(),
            self.boards.complaint(),
        )

    def run(self, seconds: float | None, show: Callable[[Progress], None]) -> Progress:
        """Runs until Ctrl-C or SIGTERM, or for so long after the past is delivered. Calls `show` again and again.

        Raises WorkersFail.
        """
        live_since: float | None = None
        with _signals() as signals:
            self._workers = [_Worker(self._start(number), time.monotonic()) for number in range(self.boards.workers)]
            try:
                while not signals:
                    time.sleep(_LOOK_SECONDS)
                    progress = self.progress()
                    show(progress)
                    if progress.is_live and live_since is None:
                        live_since = time.monotonic()
                    if live_since is not None and seconds is not None and time.monotonic() - live_since >= seconds:
                        break
                    self._replace_those_that_ended()
            finally:
                self._end(signals)
        return self.progress()

    def _start(self, number: int) -> BaseProcess:
        process = CONTEXT.Process(target=work, args=(self._plan, self._target, self.boards, number), daemon=True)
        process.start()
        return process

    def _replace_those_that_ended(self) -> None:
        for number, worker in enumerate(self._workers):
            code = worker.process.exitcode
            # One whose hosts all fell silent has done what there was to do.
            if code is None or code == 0:
                continue
            self.boards.closed(number)
            short = worker.short + 1 if time.monotonic() - worker.started < _SHORT_SECONDS else 0
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            if short >= _MOST_IN_A_ROW:
                raise WorkersFail(f"worker {number + 1} ended {how} again and again; it says why above")
            self._say(f"worker {number + 1} ended {how}; another one goes on with its hosts")
            self._workers[number] = _Worker(self._start(number), time.monotonic(), short)

    def _end(self, signals: list[int]) -> None:
        """Has the workers wait for what is not acknowledged yet, and end. Another signal ends them at once."""
        for worker in self._workers:
            worker.process.terminate()
        deadline, before = time.monotonic() + _END_SECONDS, len(signals)
        while any(worker.process.is_alive() for worker in self._workers):
            if len(signals) > before or time.monotonic() > deadline:
                for worker in self._workers:
                    worker.process.kill()
            time.sleep(_LOOK_SECONDS)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields a list in which SIGINT and SIGTERM are noted for as long as the block lasts."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
