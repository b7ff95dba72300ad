"""When the ports towards a destination run out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_agent.ports import Usage, forecast

properties = settings(derandomize=True, max_examples=300, deadline=None, database=None)


def used_at(usage: Usage, rate: float, growth: float, seconds: float) -> float:
    """How many ports are used so many seconds from now: what lives, what closed since, what has not expired yet."""
    closed = (rate - growth) * min(seconds, 60.0)
    left = sum(1 for milliseconds in (*usage.time_wait, *usage.fin_wait2) if milliseconds > 1_000 * seconds)
    return usage.live + growth * seconds + closed + left


def grid(until: float) -> list[float]:
    """Moments a tenth of a second apart."""
    return [number / 10 for number in range(int(until * 10))]


timers = st.lists(st.integers(0, 60_000), max_size=120)


@properties
@given(
    st.builds(Usage, st.integers(0, 60), timers, timers),
    st.integers(1, 400),
    st.floats(0, 5, allow_nan=False).map(lambda growth: round(growth, 2)),
    st.sampled_from((1.0, 5.0, 10.0, 60.0)),
)
def test_the_forecast_is_when_a_simulation_has_no_port_left(
    usage: Usage, available: int, growth: float, elapsed: float
) -> None:
    """Not a moment sooner or later; and where it is never, the simulation never gets there."""
    result = forecast(usage, available, growth, None, elapsed)
    rate, left = result.connects_per_second, result.exhausted_in_seconds
    assert rate is not None
    before = [
        moment for moment in grid(min(left if left is not None else 600.0, 600.0)) if left is None or moment < left
    ]
    assert all(used_at(usage, rate, growth, moment) < available + 1e-6 for moment in before)
    if left is not None and left > 0:
        # Timers run out at the very moment: just before, all of them still count.
        assert used_at(usage, rate, growth, left - 1e-6) == pytest.approx(available, abs=1e-3)
    if left == 0:
        assert usage.used >= available
    if growth == 0 and left is None:
        assert used_at(usage, rate, growth, 1e6) < available + 1e-6


def test_the_rate_is_that_of_the_closes_since_the_last_tick_and_of_growth() -> None:
    """Timers of 60 s tell when a socket closed; the present reaches ten seconds back at most."""
    usage = Usage(live=5, time_wait=[59_500, 58_500, 55_001, 54_999, 10_000])
    assert forecast(usage, 100, 0.5, None, 5.0).connects_per_second == 3 / 5 + 0.5
    assert forecast(usage, 100, 0.0, None, 10.0).connects_per_second == 4 / 10
    assert forecast(usage, 100, 0.0, None, 300.0).connects_per_second == 4 / 10


def test_connections_that_become_fewer_are_not_new_ones() -> None:
    """Those that closed were there before: ten closed, and live connections are ten fewer."""
    usage = Usage(live=0, time_wait=[55_000] * 10)
    result = forecast(usage, 100, -1.0, None)
    assert (result.connects_per_second, result.exhausted_in_seconds) == (0.0, None)
    assert forecast(usage, 100, -3.0, None).connects_per_second == 0.0


def test_a_steady_client_is_exhausted_by_its_rate_times_sixty() -> None:
    """At 10 a second, 600 ports are used at most: with 601 there is always one."""
    usage = Usage(time_wait=[number * 100 for number in range(1, 601)])
    assert forecast(usage, 700, 0.0, None).exhausted_in_seconds is None
    assert forecast(usage, 600, 0.0, None).exhausted_in_seconds == 0.0
    assert forecast(usage, 600, 0.0, None).exhausting_connects_per_second == 10.0


def test_a_client_that_has_just_started_is_exhausted_before_its_first_sockets_expire() -> None:
    """100 a second for two seconds, 1,000 ports: eight seconds are left."""
    usage = Usage(time_wait=[58_000 + number * 10 for number in range(200)])
    assert forecast(usage, 1_000, 0.0, None, 2.0).exhausted_in_seconds == pytest.approx(8.0)


def test_without_ports_left_it_is_now() -> None:
    """Also where nobody connects any more."""
    assert forecast(Usage(live=10), 10, 0.0, None).exhausted_in_seconds == 0.0
    assert forecast(Usage(live=9, fin_wait2=[100, 100]), 10, -1.0, None).exhausted_in_seconds == 0.0


def test_live_connections_alone_are_a_straight_line() -> None:
    """A leak of connections, two a second: nothing is given back."""
    assert forecast(Usage(live=100), 300, 2.0, None).exhausted_in_seconds == pytest.approx(100.0)
    assert forecast(Usage(live=100), 150, 2.0, None).exhausted_in_seconds == pytest.approx(25.0)


class TestReuse:
    """net.ipv4.tcp_tw_reuse: ports in TIME_WAIT are no obstacle."""

    def test_sockets_older_than_the_delay_can_be_used_again(self) -> None:
        """Their age is what is gone of 60 s."""
        usage = Usage(live=1, time_wait=[59_500, 59_001, 59_000, 58_999, 1])
        assert forecast(usage, 100, 0.0, 1.0).reusable == 2
        assert forecast(usage, 100, 0.0, 0.0).reusable == 5
        assert forecast(usage, 100, 0.0, None).reusable == 0

    def test_no_rate_uses_up_the_ports_but_live_connections_do(self) -> None:
        """Only those that grow."""
        usage = Usage(live=40, time_wait=[30_000] * 60)
        still = forecast(usage, 100, 0.0, 1.0)
        assert (still.exhausting_connects_per_second, still.exhausted_in_seconds) == (None, None)
        assert forecast(usage, 100, 2.0, 1.0).exhausted_in_seconds == 30.0
        assert forecast(usage, 30, 2.0, 1.0).exhausted_in_seconds == 0.0


class TestUnknown:
    def test_in_the_first_sample_there_is_no_rate(self) -> None:
        """How many ports would be used up by which rate is known all the same."""
        for reuse_after in (None, 1.0):
            result = forecast(Usage(live=5, time_wait=[59_000] * 9), 600, None, reuse_after)
            assert (result.connects_per_second, result.exhausted_in_seconds) == (None, None)
        assert forecast(Usage(live=5), 600, None, None).exhausting_connects_per_second == 10.0

    def test_without_the_range_nothing_is_forecast(self) -> None:
        """The rate is known."""
        result = forecast(Usage(live=5, time_wait=[59_000] * 10), None, 1.0, None)
        assert result.connects_per_second == 2.0
        assert (result.exhausting_connects_per_second, result.exhausted_in_seconds) == (None, None)
        assert forecast(Usage(live=5), None, 1.0, 1.0).exhausted_in_seconds is None
