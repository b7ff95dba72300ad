"""Agents whose clocks are wrong, and are set while they run: the figures are right all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from support.faketime import FakeClock
from support.programs import Aggregator, Program, agent_command, aggregator, ask, running, wait_until
from support.side_by_side import side_by_side

INTERVAL = 1.0


@contextmanager
def agent(folder: Path, server: Aggregator, clock: FakeClock) -> Iterator[Program]:
    """An agent by that clock."""
    command = agent_command(server.server, folder, "--hostname", "web-1", interval=f"{INTERVAL:g}s")
    with running(command, folder / "agent.log", clock.environment) as program:
        yield program


def host(server: Aggregator) -> dict[str, Any]:
    """What is known of the host."""
    found: dict[str, Any] = ask(server.server, "host", "web-1")
    return found


def more_samples(server: Aggregator, more: int, seconds: float) -> dict[str, Any]:
    """Waits for so many samples more than there are."""
    before = host(server)["samples"]

    def later() -> dict[str, Any] | None:
        now = host(server)
        return now if now["samples"] >= before + more else None

    return wait_until(later, seconds, f"{more} samples more") or {}


def is_now(text: str) -> bool:
    """Whether a time is of the last seconds, by the right clock."""
    return abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 10


def stored(folder: Path) -> list[tuple[int, int, int]]:
    """Each sample in the store of a stopped aggregator, as they came: corrected time, skew, arrival; milliseconds."""
    with duckdb.connect(str(folder / "store/loiter.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT ts, skew, received FROM host_sample ORDER BY received, ts").fetchall()


def test_a_clock_that_is_wrong_by_hours_is_set_right_and_shown(tmp_path: Path) -> None:
    """The samples are of now; by how much the clock is behind is said, and what it says."""
    side_by_side(check_wrong_clock, [-3.0, 3.0], tmp_path)


def check_wrong_clock(hours: float, tmp_path: Path) -> None:
    with aggregator(tmp_path) as server, agent(tmp_path, server, FakeClock(tmp_path, hours)) as one:
        wait_until(lambda: ask(server.server, "top", "hosts"), 30, "the agent reports")
        found = more_samples(server, 2, 20)
        assert found["clock_skew_seconds"] == pytest.approx(-3_600 * hours, abs=5)
        assert is_now(found["last_sample"])
        assert not is_now(found["latest_agent_time"])
        assert found["silent"] is False
        assert one.stop() == 0
        assert "the clock was set" not in one.logged(), "it is wrong, and goes on steadily"


def test_a_clock_that_is_set_by_hours_stops_no_ticks(tmp_path: Path) -> None:
    """Sampling goes on at its interval, no tick counts as late, and the times of the samples stay in order."""
    side_by_side(check_clock_that_is_set, [-2.0, 2.0], tmp_path)


def check_clock_that_is_set(hours: float, tmp_path: Path) -> None:
    clock = FakeClock(tmp_path, 0)
    with aggregator(tmp_path) as server:
        with agent(tmp_path, server, clock) as one:
            wait_until(lambda: ask(server.server, "top", "hosts"), 30, "the agent reports")
            assert more_samples(server, 2, 20)["clock_skew_seconds"] == 0
            late = host(server)["cost"]["late_ticks"]
            clock.set(hours)
            found = more_samples(server, 5, 20)
            assert found["clock_skew_seconds"] == pytest.approx(-3_600 * hours, abs=5)
            assert is_now(found["last_sample"])
            one.wait_for_log("the clock was set")
            direction = "forward" if hours > 0 else "back"
            assert re.search(rf"the clock was set {direction} by (2h|1h 59m 5\ds|1h 59m)", one.logged()), one.logged()
            assert one.logged().count("the clock was set") == 1
            assert host(server)["cost"]["late_ticks"] - late <= 2
            clock.set(0)
            wait_until(lambda: host(server)["clock_skew_seconds"] == 0, 20, "a clock that is right again")
            assert one.stop() == 0
            assert "Traceback" not in one.logged()
        assert server.stop() == 0
    rows = stored(tmp_path)
    times = [ts for ts, _, _ in rows]
    assert times == sorted(times), "in the order in which they were taken"
    assert len(set(times)) == len(times)
    # One tick may come with the next, and all a bit late on a busy machine.
    assert max(later - before for before, later in pairwise(times)) < 1_000 * (2 * INTERVAL + 3), "no tick is missed"
    assert all(0 <= received - ts < 10_000 for ts, _, received in rows), "and near their arrival"
    assert {round(skew / 3_600_000) for _, skew, _ in rows} == {0, -round(hours)}
