"""Every sample that is taken is stored once, or counted as lost, whatever is killed meanwhile."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.audit import check_accounts, check_samples, stored, taken
from support.programs import Aggregator, Program, agent_command, aggregator, ask, wait_until
from support.reports import host_id
from support.soaking import SOAK


@dataclass(frozen=True)
class Scale:
    """How long and how hard: synthetic agents in so many processes, real ones besides, and kills of either side."""

    agents: int
    processes: int
    real_agents: int
    aggregator_kills: int
    agent_kills: int
    longest_pause: float


SCALE = Scale(50, 50, 3, 100, 100, 3.0) if SOAK else Scale(50, 5, 2, 6, 10, 1.2)
SEED = 20_261_122
# Old reports are sent at a bounded rate, and after a hundred restarts there are many.
PATIENCE_SECONDS = 400 if SOAK else 60


class Agents:
    """Processes of agents that are killed and started again on the same folders."""

    def __init__(self, server: str, folder: Path) -> None:
        """Starts them."""
        self._folder = folder
        self._commands = [self._synthetic(server, index) for index in range(SCALE.processes)]
        self._commands += [self._real(server, index) for index in range(SCALE.real_agents)]
        self._running = [self._start(index) for index in range(len(self._commands))]

    def _synthetic(self, server: str, index: int) -> list[str | Path]:
        each = SCALE.agents // SCALE.processes
        return [
            *(sys.executable, "-m", "support.synthetic_agents", "--server", server, "--folder", self._folder),
            *(
                "--first",
                str(index * each),
                "--agents",
                str(each),
                "--interval",
                "0.2",
                "--patience",
                str(PATIENCE_SECONDS),
            ),
        ]

    def _real(self, server: str, index: int) -> list[str | Path]:
        return agent_command(server, self._folder / f"real-{index}", "--hostname", f"real-{index}", interval="500ms")

    def _start(self, index: int) -> Program:
        environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
        if index >= SCALE.processes:
            environment["LOITER_HOST_ID"] = host_id(f"real-{index - SCALE.processes}")
        program = Program(self._commands[index], self._folder / f"agents-{index}.log", environment)
        if index < SCALE.processes:
            assert program.line() == "running", program.logged()
        return program

    def kill(self, index: int) -> None:
        """Kills one process with -9, and starts it again."""
        self._running[index].stop(signal.SIGKILL)
        self._running[index] = self._start(index)

    def __len__(self) -> int:
        """How many processes there are."""
        return len(self._running)

    def finish(self) -> None:
        """Has them stop sampling and deliver what is left. Fails where one could not."""
        for program in self._running:
            program.process.send_signal(signal.SIGTERM)
        for index, program in enumerate(self._running):
            # A real agent that has only just been started may not listen to the signal yet.
            well = (0,) if index < SCALE.processes else (0, -signal.SIGTERM)
            assert program.stop(seconds=PATIENCE_SECONDS + 30) in well, program.logged()

    def end(self) -> None:
        """Ends those that still run."""
        for program in self._running:
            program.stop(signal.SIGKILL)

    def logs(self) -> str:
        """What they wrote."""
        return "".join(file.read_text() for file in self._folder.glob("agents-*.log"))


@contextmanager
def agents_of(one: Aggregator, folder: Path) -> Iterator[Agents]:
    """Runs agents for as long as the block lasts."""
    with ExitStack() as stack:
        agents = Agents(one.server, folder)
        stack.callback(agents.end)
        yield agents


@pytest.mark.timeout(3_600 if SOAK else 120)
def test_killed_programs_lose_nothing_and_store_nothing_twice(tmp_path: Path) -> None:
    """The aggregator and agents are killed with -9 at random moments; afterwards, all is there, sample by sample."""
    rng = random.Random(SEED)
    kills_agent = [False] * SCALE.aggregator_kills + [True] * SCALE.agent_kills
    rng.shuffle(kills_agent)
    with aggregator(tmp_path) as one, agents_of(one, tmp_path) as agents:
        for agent in kills_agent:
            time.sleep(rng.uniform(0, SCALE.longest_pause))
            if agent:
                agents.kill(rng.randrange(len(agents)))
            else:
                one.stop(signal.SIGKILL)
                one.start()
        # An agent that has just found no aggregator waits a while; these do not stay to deliver the rest.
        hosts = SCALE.agents + SCALE.real_agents
        wait_until(
            lambda: ask(one.server, "fleet")["coverage"]["hosts"] == hosts, PATIENCE_SECONDS, "every host has reported"
        )
        agents.finish()
        assert one.stop() == 0
        logs = one.program.logged() + agents.logs()
    assert "Traceback" not in logs, logs
    found = stored(tmp_path / "store" / "loiter.duckdb")
    audited = taken(tmp_path)
    assert len(audited) == SCALE.agents
    assert len(found) == SCALE.agents + SCALE.real_agents
    check_accounts(found.values())
    lost = check_samples(audited, found)
    assert lost == 0, f"{lost} samples are counted as lost, though nothing gave a reason"
    count = sum(len(agent.confirmed) for agent in audited.values())
    print(f"{count:,} samples of {SCALE.agents} agents through {len(kills_agent)} kills: all stored once")
