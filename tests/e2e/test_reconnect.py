"""An aggregator comes back, and a whole fleet with it."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.programs import Program, aggregator, wait_until
from support.soaking import SOAK

AGENTS = 2_000 if SOAK else 600
PROCESSES = 4
INTERVAL_SECONDS = 10 if SOAK else 4
BACK_WITHIN_SECONDS = 60
MOST_AGGREGATOR_LINES = 50


def reporting(drivers: list[Program]) -> int:
    """How many times an agent has said that it reports, for the first time or again."""
    return sum(driver.logged().count("INFO reporting to") for driver in drivers)


@pytest.mark.timeout(300)
def test_a_fleet_streams_again_within_a_minute_of_a_restart(tmp_path: Path) -> None:
    """Each says once that its aggregator is away and once that it is back; the aggregator says next to nothing."""
    with aggregator(tmp_path) as one, ExitStack() as stack:
        drivers = [stack.enter_context(_driver(index, one.server, tmp_path)) for index in range(PROCESSES)]
        for driver in drivers:
            assert driver.line() == "running", driver.logged()
        wait_until(lambda: reporting(drivers) >= AGENTS, 120, "all agents stream")
        one.stop(signal.SIGKILL)
        before = len(one.program.logged().splitlines())
        started = time.monotonic()
        one.start()
        wait_until(lambda: reporting(drivers) >= 2 * AGENTS, BACK_WITHIN_SECONDS, "all agents stream again")
        print(f"{AGENTS:,} agents stream again {time.monotonic() - started:.1f} s after the aggregator was started")
        logs = [driver.logged() for driver in drivers]
        said = one.program.logged().splitlines()[before:]
    assert len(said) <= MOST_AGGREGATOR_LINES, said[:20]
    assert sum(len(log.splitlines()) for log in logs) <= 3 * AGENTS + MOST_AGGREGATOR_LINES
    assert not re.search("Traceback|ERROR", "".join(logs) + "\n".join(said))


@contextmanager
def _driver(index: int, server: str, folder: Path) -> Iterator[Program]:
    each = AGENTS // PROCESSES
    command: list[str | Path] = [sys.executable, "-m", "support.synthetic_agents", "--server", server]
    command += ["--folder", folder, "--first", str(index * each), "--agents", str(each)]
    command += ["--interval", str(INTERVAL_SECONDS)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    driver = Program(command, folder / f"agents-{index}.log", environment)
    try:
        yield driver
    finally:
        driver.stop(signal.SIGKILL)
