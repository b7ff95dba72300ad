"""The wall clock is set now and then; what hangs on it must not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from loiter_agent.beat import Beat
from loiter_agent.clock import StepWatch, since_boot

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Clocks:
    """A wall clock and a clock since boot that stand until they are moved."""

    wall: float = 1_000_000.0
    boot: float = 500.0

    def pass_by(self, seconds: float) -> None:
        """Time goes by on both."""
        self.wall += seconds
        self.boot += seconds


def watch_of(clocks: Clocks) -> StepWatch:
    """A watch over these clocks."""
    return StepWatch(lambda: clocks.wall, lambda: clocks.boot)


def test_the_clock_since_boot_is_that_of_the_kernel() -> None:
    """It counts time in which the host was suspended, so it is not behind CLOCK_MONOTONIC."""
    assert time.monotonic() <= since_boot()


@pytest.mark.parametrize("step", [-7_200.0, -2.5, 3.0, 1.8e9])
def test_a_clock_that_is_set_is_noticed_once(step: float) -> None:
    """By how much, back being negative; from then on it is as right as any."""
    clocks = Clocks()
    watch = watch_of(clocks)
    clocks.pass_by(5)
    assert watch.stepped() == 0
    clocks.wall += step
    clocks.pass_by(5)
    assert watch.stepped() == pytest.approx(step)
    assert watch.stepped() == 0


def test_a_clock_that_is_slewed_is_not_set() -> None:
    """500 parts in a million, the most that the kernel does, over a day, asked every five seconds."""
    clocks = Clocks()
    watch = watch_of(clocks)
    for _ in range(17_280):
        clocks.pass_by(5)
        clocks.wall += 5 * 500e-6
        assert watch.stepped() == 0


def test_an_agent_that_is_stopped_between_two_readings_does_not_take_that_for_a_step() -> None:
    """It reads again."""
    clocks = Clocks()
    delays = [0.0, 60.0, 0.0, 0.0]

    def read_wall() -> float:
        clocks.pass_by(delays.pop(0))
        return clocks.wall

    watch = StepWatch(read_wall, lambda: clocks.boot)
    assert watch.stepped() == 0
    assert delays == [0.0], "two readings at first, one of them in vain"


def fires(beat: Beat, clocks: Clocks, times: int) -> list[float]:
    """The moments since boot at which a scheduler fires that goes by the wall clock as it is when it asks."""
    moments = []
    for _ in range(times):
        clocks.pass_by(beat.left())
        moments.append(round(clocks.boot, 6))
        after = beat.get_next_fire_time(None, NOW)
        assert beat.get_next_fire_time(None, NOW) == after, "it asks twice"
        assert (after - NOW).total_seconds() == pytest.approx(beat.left())
    return moments


def test_ticks_keep_their_beat_whatever_they_took() -> None:
    """Ten seconds from the first on, and not from when the last one was done."""
    clocks = Clocks()
    beat = Beat(10.0, 503.0, lambda: clocks.boot)
    assert fires(beat, clocks, 3) == [503.0, 513.0, 523.0]
    clocks.pass_by(4.9)
    assert fires(beat, clocks, 2) == [533.0, 543.0]


def test_a_timer_that_is_early_does_not_make_two_ticks_of_one() -> None:
    """By milliseconds, or a bit more."""
    clocks = Clocks(boot=502.99)
    beat = Beat(10.0, 503.0, lambda: clocks.boot)
    beat.get_next_fire_time(None, NOW)
    assert beat.left() == pytest.approx(10.01)


def test_ticks_that_were_missed_are_passed_over() -> None:
    """After a suspension of hours: one at once, no run is made up for, and none follows within half an interval."""
    clocks = Clocks()
    beat = Beat(10.0, 500.0, lambda: clocks.boot)
    clocks.pass_by(7_209)
    assert fires(beat, clocks, 3) == [7_709.0, 7_720.0, 7_730.0]


@pytest.mark.parametrize("step", [timedelta(hours=-2), timedelta(hours=2), timedelta(days=20_000)])
def test_a_step_of_the_wall_clock_moves_the_time_of_the_next_tick_with_it(step: timedelta) -> None:
    """Asked anew at any moment, the next tick is as far away as it was. Decades are no list of ticks."""
    clocks = Clocks()
    beat = Beat(10.0, 500.0, lambda: clocks.boot)
    beat.get_next_fire_time(None, NOW)
    clocks.pass_by(8.0)
    assert beat.left() == 2.0
    clocks.pass_by(2.0)
    assert beat.get_next_fire_time(NOW, NOW + step) - (NOW + step) == timedelta(seconds=10)


def test_another_interval_counts_from_the_last_tick() -> None:
    """Longer or shorter. A tick that should have been by now comes at once."""
    clocks = Clocks()
    beat = Beat(10.0, 500.0, lambda: clocks.boot)
    fires(beat, clocks, 1)
    clocks.pass_by(1.0)
    beat.change(40.0, 500.0)
    assert (beat.interval, beat.left()) == (40.0, 39.0)
    clocks.pass_by(30.0)
    beat.change(10.0, 500.0)
    assert fires(beat, clocks, 2) == [531.0, 540.0]
