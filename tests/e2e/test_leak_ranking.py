"""The main job: a leak is first in the ranking within a minute, and busy neighbours are not above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.programs import agent_command, aggregator, ask, leaklab, running, wait_until

LEAK_PER_SECOND = 10.0


@pytest.mark.timeout(100)
def test_a_leak_is_first_and_its_slope_is_right(tmp_path: Path) -> None:
    """10 sockets a second are 36,000 an hour: the slope is within 10 % of that, and churn is not above it."""
    with (
        aggregator(tmp_path) as server,
        running(leaklab("leak", "--per-second", str(LEAK_PER_SECOND)), tmp_path / "leak.log") as leak,
        running(leaklab("churn", "--per-second", "300"), tmp_path / "churn.log") as churn,
        running(
            agent_command(server.server, tmp_path, "--label", "role=lab", interval="500ms"), tmp_path / "agent.log"
        ),
    ):
        assert (leak.line(), churn.line()) == ("leaking", "churning")

        def ranked() -> list[dict[str, object]]:
            rows: list[dict[str, object]] = ask(
                server.server, "top", "processes", "--by", "close-wait-growth", "--label", "role=lab"
            )
            return rows if rows and rows[0]["pid"] == leak.pid and int(str(rows[0]["samples"])) >= 20 else []

        rows = wait_until(ranked, 55, "the leak is first, with 20 samples")
        host = ask(server.server, "top", "hosts")[0]
        app = ask(server.server, "top", "apps")[0]
        detail = ask(server.server, "host", str(host["host"]))
        nobody = ask(server.server, "top", "processes", "--label", "role=other")

    expected = 3_600 * LEAK_PER_SECOND
    assert rows[0]["rank"] == 1
    assert rows[0]["close_wait_growth_per_hour"] == pytest.approx(expected, rel=0.1)
    assert float(str(rows[0]["close_wait_growth_fit"])) > 0.99
    others = {row["pid"]: float(str(row["close_wait_growth_per_hour"] or 0)) for row in rows[1:]}
    assert others.get(churn.pid, 0.0) < expected / 10
    assert app["app"] == "leak.py"
    assert app["close_wait_growth_per_hour"] == pytest.approx(expected, rel=0.1)
    assert (app["hosts"], app["processes"]) == (1, 1)
    # The churning neighbour is what fills TIME_WAIT; the leak fills CLOSE_WAIT.
    assert host["time_wait_max"] > 1_000
    assert host["close_wait_growth_per_hour"] == pytest.approx(expected, rel=0.1)
    assert detail["processes"][0]["pid"] == leak.pid
    assert detail["tcp_states"]["close_wait"] >= 100
    assert nobody == []
