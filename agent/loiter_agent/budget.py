"""Keeps the agent to its share of a processor, by leaving things out. Pure: no I/O, and clocks are passed in.

The steps are those of `Degradation`: first ticks, which costs detail in time alone, then what is dear to find out, then
processes. One step up is taken when the mean of a few ticks is over the budget, and one step back when there has been
room for long. Three things keep it from swinging to and fro:

- Ticks that cost more for a reason that passes do not count: the first ones of an agent, which charge every socket of
  the host for the first time, and the first one after a step back, which looks at what was left out.
- A step back has to leave room. Twice as many ticks cost twice as much at most; what detail costs is not known before
  it is tried.
- So a step back that does not last is tried again after twice as many ticks.

All is counted in ticks, so that it is the same at every interval.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loiter_agent.sample import Degradation

# The first scan, the first walk over all descriptors, the first connection.
_WARM_UP_TICKS: Final = 3
# With this many ticks a mean is one: a single tick that is dear, as after a deployment, costs nothing.
_LEAST_TICKS: Final = 3
_CALM_TICKS: Final = 6
# After a step back no more than this of the budget is to be used: cost varies by some tenths from tick to tick.
_ROOM: Final = 0.75
# Ticks on one step before a step back: at 40 s, eight minutes at first and about an hour in the end. One that fails
# takes four ticks, so that four in a hundred are dearer than they should be where it fails again and again.
_FIRST_WAIT_TICKS: Final = 12
_LONGEST_WAIT_TICKS: Final = 96

_STRETCH: Final[Mapping[Degradation, int]] = {Degradation.NONE: 1, Degradation.HALF_AS_OFTEN: 2}
_LONGEST_STRETCH: Final = 4
_LEFT_OUT: Final[Mapping[Degradation, str]] = {
    Degradation.HALF_AS_OFTEN: "every second tick",
    Degradation.QUARTER_AS_OFTEN: "every other of the remaining ticks",
    Degradation.NO_DETAIL: "why, since when and with whom sockets are in CLOSE_WAIT, and whose those in TIME_WAIT were",
    Degradation.COUNTS_ONLY: "processes; sockets are counted by state",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What the agent used: seconds of processor time within seconds that passed."""

    cpu_seconds: float
    elapsed_seconds: float

    @property
    def share(self) -> float:
        """The share of one processor."""
        return self.cpu_seconds / self.elapsed_seconds


class CpuMeter:
    """Measures what the whole process uses, the threads of gRPC and of the spool included."""

    def __init__(
        self, cpu: Callable[[], float] = time.process_time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes the clocks, in seconds. While the host is suspended the second one stands, as the first does."""
        self._cpu = cpu
        self._clock = clock
        self._last: tuple[float, float] | None = None

    def leave_out(self, seconds: float) -> None:
        """Has processor time that was used since the last call not count."""
        if self._last is not None:
            self._last = self._last[0] + seconds, self._last[1]

    def lap(self) -> Usage | None:
        """Returns what was used since the last call; None for the first, and where no time has passed."""
        cpu, now = self._cpu(), self._clock()
        last, self._last = self._last, (cpu, now)
        return Usage(cpu - last[0], now - last[1]) if last is not None and now > last[1] else None


@dataclass(frozen=True, slots=True)
class Change:
    """A step up or back, and the mean over some ticks that it was taken for."""

    before: Degradation
    after: Degradation
    share: float
    ticks: int
    budget: float

    def __str__(self) -> str:
        """What is left out from now on, or no more, and why, for the log."""
        used = (
            f"{_percent(self.share)} of a processor used over {self.ticks} ticks, cpu_budget is {_percent(self.budget)}"
        )
        if self.after > self.before:
            return f"{used}; left out from now on: {_LEFT_OUT[self.after]}"
        return f"{used}; no longer left out: {_LEFT_OUT[self.before]}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def stretch(step: Degradation) -> int:
    """Returns how many intervals lie between two ticks."""
    return _STRETCH.get(step, _LONGEST_STRETCH)


class Budget:
    """Chooses the step for the next tick from what the last ones cost."""

    def __init__(self, share: float) -> None:
        """Takes the share of one processor to stay below."""
        self.share = share
        self._start_over()

    def _start_over(self) -> None:
        self.step = Degradation.NONE
        self._usages: deque[Usage] = deque(maxlen=_CALM_TICKS)
        self._passing = _WARM_UP_TICKS
        self._ticks = 0  # on this step
        self._stepped_back = False
        self._wait = _FIRST_WAIT_TICKS

    def configure(self, share: float) -> None:
        """Changes the budget. With a larger one nothing is left out until it proves too small."""
        if share > self.share:
            self._start_over()
        self.share = share

    def spend(self, usage: Usage) -> Change | None:
        """Takes in what was used from the tick before to this one, and returns the change of step, if any."""
        self._ticks += 1
        if self._passing:
            self._passing -= 1
            return None
        self._usages.append(usage)
        if len(self._usages) < _LEAST_TICKS:
            return None
        mean = self._mean()
        if mean > self.share:
            return self._step_up(mean) if self.step < max(Degradation) else None
        return self._step_back(mean) if self._has_room(mean) else None

    def _mean(self) -> float:
        return Usage(
            sum(usage.cpu_seconds for usage in self._usages), sum(usage.elapsed_seconds for usage in self._usages)
        ).share

    def _has_room(self, mean: float) -> bool:
        if self.step == Degradation.NONE or len(self._usages) < _CALM_TICKS or self._ticks < self._wait:
            return False
        before = Degradation(self.step - 1)
        return mean * stretch(self.step) / stretch(before) <= _ROOM * self.share

    def _step_up(self, mean: float) -> Change:
        failed = self._stepped_back and self._ticks < self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT_TICKS) if failed else _FIRST_WAIT_TICKS
        self._stepped_back = False
        return self._change(Degradation(self.step + 1), mean)

    def _step_back(self, mean: float) -> Change:
        self._stepped_back = True
        self._passing = 1
        return self._change(Degradation(self.step - 1), mean)

    def _change(self, step: Degradation, mean: float) -> Change:
        change = Change(self.step, step, mean, len(self._usages), self.share)
        self.step = step
        self._usages.clear()
        self._ticks = 0
        return change
