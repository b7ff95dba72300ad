"""What the clocks of hosts are off is found out by clocks that never step."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from loiter_aggregator.ingest.clock_log import ClockLog
from loiter_aggregator.ingest.clocks import HostClock
from support.reports import HOUR, MINUTE, NOW, SECOND

DAY = 24 * HOUR
BOOT, EARLIER_BOOT = "this boot", "the boot before"


@dataclass
class World:
    """A host and the aggregator. `time` is the true one; `wrong` what the clock of each of them is ahead of it."""

    time: int = NOW
    host_wrong: int = 0
    ours_wrong: int = 0
    host_booted: int = NOW - 5 * DAY
    we_booted: int = NOW - 9 * DAY
    # By how much the host's clocks run fast, in millionths.
    drift: float = 0.0

    def host_since_boot(self) -> int:
        """CLOCK_BOOTTIME of the host."""
        return round((self.time - self.host_booted) * (1 + self.drift / 1e6))

    def host_time(self) -> int:
        """The time of day of the host."""
        return self.time + self.host_wrong

    def ours(self) -> tuple[int, int]:
        """Our time of day, and CLOCK_BOOTTIME."""
        return self.time + self.ours_wrong, self.time - self.we_booted


def _greet(world: World, delay: int = 0, agent_time: bool = True) -> HostClock:
    sent, said = world.host_since_boot(), world.host_time()
    world.time += delay
    return HostClock(BOOT, said if agent_time else None, sent, *world.ours())


def _report(world: World, clock: HostClock, delay: int = 0) -> int:
    """Takes a sample, sends it at once, and has it come after a delay. Returns its skew."""
    taken, said = world.host_since_boot(), world.host_time()
    world.time += delay
    clock.hear(taken, *world.ours())
    return clock.skew(BOOT, taken, said)


def test_a_right_clock_is_left_alone_whatever_the_network_does() -> None:
    """Delays of up to four seconds are no skew."""
    world, jitter = World(), random.Random(4)
    clock = _greet(world, delay=40)
    for _ in range(500):
        world.time += 10 * SECOND
        assert _report(world, clock, jitter.randrange(4_000)) == 0
    assert clock.current == 0


@pytest.mark.parametrize("wrong", [3 * HOUR, -3 * HOUR, 6 * SECOND, -400 * DAY])
def test_a_wrong_clock_is_told_to_the_delay_of_the_fastest_message(wrong: int) -> None:
    """However long the others take."""
    world = World(host_wrong=wrong)
    clock = _greet(world, delay=3 * SECOND)
    assert _report(world, clock, delay=20) == pytest.approx(-wrong, abs=20)
    world.time += 10 * SECOND
    assert _report(world, clock, delay=4 * SECOND) == pytest.approx(-wrong, abs=30)
    assert clock.current == pytest.approx(-wrong, abs=30)


def test_a_clock_that_is_stepped_is_told_sample_by_sample() -> None:
    """Samples from before the step are right, be they sent after it; those from after it are set right."""
    world = World()
    clock = _greet(world)
    taken, said = world.host_since_boot(), world.host_time()
    world.time += 10 * SECOND
    world.host_wrong = -2 * HOUR
    world.time += 10 * SECOND
    assert _report(world, clock) == 2 * HOUR
    assert clock.skew(BOOT, taken, said) == 0
    assert clock.current == 2 * HOUR, "what is said of the clock is of the newest sample"
    world.host_wrong = 0
    world.time += 10 * SECOND
    assert _report(world, clock) == 0
    assert clock.current == 0


def test_a_sample_is_set_right_by_when_it_was_taken_not_by_when_it_came() -> None:
    """A day's spool, sent at once."""
    world = World(host_wrong=HOUR)
    taken = []
    for _ in range(100):
        taken.append((world.host_since_boot(), world.host_time()))
        world.time += 15 * MINUTE
    clock = _greet(world)
    assert {clock.skew(BOOT, since_boot, said) for since_boot, said in taken} == {-HOUR}


@pytest.mark.parametrize("drift", [20.0, -20.0, 200.0])
def test_clocks_that_drift_apart_for_days_stay_together(drift: float) -> None:
    """CLOCK_BOOTTIME drifts too: at 20 ppm by 1.7 s a day, which after a week would be a skew of its own."""
    world = World(drift=drift)
    clock = _greet(world)
    for _ in range(7 * 24 * 60):
        world.time += MINUTE
        assert _report(world, clock, delay=30) == 0
    # Also beside a time of day that NTP keeps: it is not the drift since boot that is reported.
    world.host_wrong = HOUR
    assert _report(world, clock, delay=30) == pytest.approx(-HOUR, abs=200)


def test_a_stream_that_was_held_up_for_an_hour_does_not_make_the_clock_slow() -> None:
    """Its messages come all at once, most of them late by far."""
    world = World()
    clock = _greet(world)
    sent = []
    for _ in range(360):
        world.time += 10 * SECOND
        sent.append((world.host_since_boot(), world.host_time()))
    for since_boot, said in sent:
        clock.hear(since_boot, *world.ours())
        assert clock.skew(BOOT, since_boot, said) == 0


def test_messages_that_were_sent_together_and_held_up_together_do_not_either() -> None:
    """A window of the backlog, on its way for ten minutes."""
    world = World()
    clock = _greet(world)
    sent = [(world.host_since_boot() + number, world.host_time() + number) for number in range(64)]
    world.time += 10 * MINUTE
    for since_boot, said in sent:
        clock.hear(since_boot, *world.ours())
        assert clock.skew(BOOT, since_boot, said) == 0


def test_a_host_that_was_suspended_is_right_if_its_clock_is() -> None:
    """CLOCK_BOOTTIME goes on while it sleeps."""
    world = World()
    clock = _greet(world)
    world.time += 8 * HOUR
    assert _report(world, clock) == 0


def test_a_virtual_machine_that_was_stopped_is_followed() -> None:
    """All its clocks stood still. Once NTP has set the time of day, it is found to be right, in a few minutes."""
    world = World()
    clock = _greet(world)
    for _ in range(20):
        world.time += 10 * SECOND
        _report(world, clock, delay=20)
    world.host_booted += 20 * SECOND  # as if it had booted later: it has lived less
    skews = []
    for _ in range(20):
        world.time += 10 * SECOND
        skews.append(_report(world, clock, delay=20))
    assert abs(skews[0]) == pytest.approx(20 * SECOND, abs=500)
    assert skews[-1] == 0


def test_our_own_clock_may_step_too() -> None:
    """The samples are set right by it, whatever it shows: it is the aggregator's time that counts."""
    world = World()
    clock = _greet(world)
    world.time += 10 * SECOND
    world.ours_wrong = HOUR
    assert _report(world, clock) == HOUR
    world.ours_wrong = 0
    world.time += 10 * SECOND
    assert _report(world, clock) == 0


def test_reports_of_an_earlier_boot_are_set_right_by_what_the_clock_is_off_now() -> None:
    """Its clock since boot is another one. A hello that was long on its way does not count for slow."""
    world = World(host_wrong=-3 * HOUR)
    clock = _greet(world, delay=9 * SECOND)
    _report(world, clock, delay=10)
    assert clock.skew(EARLIER_BOOT, 77_000, NOW - DAY) == pytest.approx(3 * HOUR, abs=20)


def test_an_earlier_boot_of_a_right_clock_is_right_though_the_hello_was_slow() -> None:
    """As when a whole fleet connects at once."""
    world = World()
    clock = _greet(world, delay=9 * SECOND)
    _report(world, clock, delay=10)
    assert clock.skew(EARLIER_BOOT, 77_000, NOW - DAY) == 0


@pytest.mark.parametrize(("wrong", "skew"), [(2 * HOUR, -2 * HOUR), (-2 * HOUR, 2 * HOUR), (3 * SECOND, 0)])
def test_an_older_agent_is_taken_at_its_hello(wrong: int, skew: int) -> None:
    """It does not say when it sends anything."""
    clock = HostClock(BOOT, NOW + wrong, None, NOW, 9 * DAY)
    clock.hear(None, NOW + MINUTE, 9 * DAY + MINUTE)
    assert clock.skew(BOOT, None, NOW + wrong + MINUTE) == skew
    assert clock.current == skew


def test_an_agent_that_does_not_say_anything_is_believed() -> None:
    """Without any clock to compare."""
    assert HostClock(BOOT, None, None, NOW, 9 * DAY).skew(BOOT, None, NOW - 5 * HOUR) == 0


def test_a_clock_at_the_border_does_not_flap() -> None:
    """It is off from five seconds on, and right again below four."""
    world = World(host_wrong=-4_990)
    clock = _greet(world)
    seen = []
    for step in (0, 15, -15, 15, -15, -1_200):
        world.host_wrong -= step
        world.time += 10 * SECOND
        seen.append(_report(world, clock) != 0)
    assert seen == [False, True, True, True, True, False]


def test_each_change_of_a_clock_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not each report, nor what a network makes of it."""
    caplog.set_level("INFO")
    log = ClockLog()
    for skew in (0, 0, 3 * HOUR, 3 * HOUR + 20, 3 * HOUR - 300, -20 * MINUTE, -20 * MINUTE - 1, 0, 0):
        log.note(1, "web-\x1b1", skew)
    assert caplog.messages == [
        r"the clock of web-\x1b1 is 3h slow; its samples are set right",
        r"the clock of web-\x1b1 is 20m fast; its samples are set right",
        r"the clock of web-\x1b1 is right again",
    ]


def test_a_clock_that_goes_away_slowly_is_said_again_when_it_is_much_further_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each tenth, and no less than five seconds."""
    log = ClockLog()
    for seconds in range(5, 3_600):
        log.note(1, "web-1", seconds * SECOND)
    assert 10 < len(caplog.messages) < 80
