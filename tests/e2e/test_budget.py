"""The cost budget of a real agent on real sockets: what it leaves out, what it says, and that it comes back."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

from support.programs import agent_command, aggregator, ask, leaklab, running, wait_until

CLOSE_WAIT = 400
BUDGET_STEPS = ["every second tick", "every other of the remaining ticks", "why, since when", "processes; sockets"]


def test_an_agent_over_its_budget_leaves_out_more_and_more_and_comes_back_with_a_larger_one(tmp_path: Path) -> None:
    """One step after the other, each said once with its figures. What is left out is unknown, not zero."""
    config = tmp_path / "agent.toml"
    config.write_text('cpu_budget = "0.1%"\n')
    with (
        aggregator(tmp_path) as server,
        running(leaklab("holder", "--close-wait", str(CLOSE_WAIT)), tmp_path / "holder.log") as holder,
    ):
        assert holder.line() == "ready 0"

        def host() -> dict[str, Any]:
            found: dict[str, Any] = ask(server.server, "host", "web-1", "--window", "1h")
            return found

        command = agent_command(
            server.server, tmp_path, "--hostname", "web-1", "--config", str(config), interval="500ms", cpu_budget=None
        )
        with running(command, tmp_path / "agent.log") as agent:
            wait_until(lambda: ask(server.server, "top", "hosts"), 30, "the agent reports")
            assert host()["degradation"] == "none", "the first ticks may cost what they do"
            agent.wait_for_log(BUDGET_STEPS[2], 60)
            degraded = wait_until(lambda: (found := host())["degradation"] == "no_detail" and found, 20, "no detail")
            assert degraded["interval_seconds"] == 2.0
            assert degraded["tcp_states"]["close_wait"] >= CLOSE_WAIT
            rows = [row for row in degraded["processes"] if row["pid"] == holder.pid]
            assert [(row["close_wait"], row["cause"]) for row in rows] == [(CLOSE_WAIT, None)]

            agent.wait_for_log(BUDGET_STEPS[3], 60)
            counted = wait_until(lambda: (found := host())["degradation"] == "counts_only" and found, 20, "counts only")
            assert counted["tcp_states"]["close_wait"] >= CLOSE_WAIT
            assert counted["coverage"]["processes"] is None
            assert counted["coverage"]["sockets_attributed"] is None
            assert counted["cost"]["cpu_budget"] == 0.001
            assert counted["cost"]["cpu_share"] > 0
            assert counted["silent"] is False
            said = re.findall(
                r"WARNING ([0-9.]+) % of .* cpu_budget is 0.1 %; left out from now on: (.*)", agent.logged()
            )
            assert [text.startswith(step) for (_, text), step in zip(said, BUDGET_STEPS, strict=True)] == [True] * 4
            assert all(float(share) > 0.1 for share, _ in said)

            config.write_text('cpu_budget = "100%"\n')
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log("settings reloaded")
            full = wait_until(
                lambda: (found := host())["degradation"] == "none" and found["cause"] and found, 30, "everything again"
            )
            assert full["interval_seconds"] == 0.5
            assert full["coverage"]["processes"] > 0
            (row,) = [row for row in full["processes"] if row["pid"] == holder.pid]
            assert row["close_wait"] == CLOSE_WAIT
            assert row["close_wait_age_seconds"]["max"] > 5, "as old as they are, though nobody looked"
            assert agent.stop() == 0
            assert "Traceback" not in agent.logged()
            assert agent.logged().count("left out from now on") == 4
