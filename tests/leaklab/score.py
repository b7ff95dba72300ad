"""Scores the sampler: runs the programs of the leak lab, samples this machine, and compares with what they know.

Needs root. Each program runs in a network namespace of its own. Prints Markdown tables, and ends with status 1 where a
goal is missed. Run by `make leaklab`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from leaklab.catalogue import CATALOGUE, PROGRAMS, Entry
from leaklab.report import goals, markdown
from leaklab.scoring import Observation, Score, score
from leaklab.truth import Truth, read_truth
from loiter_agent.procfs import Procfs
from loiter_agent.sampler import Bounds, Sampler
from support.netns import netns

END_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Running:
    """A program that runs, and the folder of its output."""

    entry: Entry
    process: subprocess.Popen[bytes]
    folder: Path

    def end(self) -> None:
        """Ends it by the end of its standard input. Shows what it complained of."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if complaints := (self.folder / "errors").read_text():
            print(f"{self.entry.name}:\n{complaints}", file=sys.stderr)

    def truth(self) -> Truth:
        """What it told, after its end."""
        return read_truth(self.folder)


@contextmanager
def running(entry: Entry, folder: Path) -> Iterator[Running]:
    """Runs a program in a network namespace of its own for as long as the block lasts."""
    folder.mkdir()
    script = PROGRAMS / f"{entry.script}.py"
    with netns() as inside, (folder / "truth").open("wb") as truth, (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            inside.command([sys.executable, script, "--closes", folder, *entry.arguments]),
            stdin=subprocess.PIPE,
            stdout=truth,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(PROGRAMS.parents[1])},
        )
        program = Running(entry, process, folder)
        try:
            yield program
        finally:
            program.end()


def observe(sampler: Sampler, samples: int, interval: float) -> list[Observation]:
    """Takes samples, each `interval` seconds after the one before was begun."""
    observations: list[Observation] = []
    for _ in range(samples):
        if observations:
            time.sleep(max(0.0, observations[-1].begun + interval - time.monotonic()))
        begun = time.monotonic()
        sample = sampler.sample()
        alive = frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())
        observations.append(Observation(begun, time.monotonic(), sample, alive))
    return observations


def measure(entries: Sequence[Entry], samples: int, interval: float, tracer: bool) -> Score:
    """Runs programs and samples them.

    The sampler is there first, as an agent is before what goes wrong later; but for the programs with a warm-up, which
    are there before it.
    """
    with (
        closing(Sampler(Procfs(), Bounds(top=50, limit=500), interval=interval, trace_closes=tracer)) as sampler,
        tempfile.TemporaryDirectory(prefix="loiter-leaklab.") as folder,
    ):
        with ExitStack() as stack:

            def start(early: bool) -> list[Running]:
                chosen = [entry for entry in entries if (entry.warm_up > 0) == early]
                return [
                    stack.enter_context(running(entry, Path(folder) / str(entries.index(entry)))) for entry in chosen
                ]

            programs = start(early=True)
            time.sleep(max((entry.warm_up for entry in entries), default=0.0))
            before = observe(sampler, 1, interval)
            programs = sorted(programs + start(early=False), key=lambda program: entries.index(program.entry))
            observations = before + observe(sampler, samples, interval)
        return score(((program.entry, program.truth()) for program in programs), observations)


def _chosen(names: Sequence[str]) -> list[Entry]:
    """The entries whose script has one of these names; all where none is given."""
    return [entry for entry in CATALOGUE if not names or entry.script in names]


def main() -> int:
    """Scores, prints, and tells by the status whether all goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between samples")
    parser.add_argument("--tracer", choices=("with", "without", "both"), default="both")
    parser.add_argument("scripts", nargs="*", help="programs to run, all by default")
    options = parser.parse_args()
    entries = _chosen(options.scripts)
    if not entries:
        parser.error(f"there is no such program: {' '.join(options.scripts)}")
    if os.geteuid() != 0:
        print("leaklab: needs root, to make namespaces and to look into every process", file=sys.stderr)
        return 1
    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {os.cpu_count()} CPUs, ", end="")
    print(f"{options.samples} samples, one every {options.interval:g} s\n", flush=True)
    met = True
    for tracer in {"with": (True,), "without": (False,), "both": (True, False)}[options.tracer]:
        result = measure(entries, options.samples, options.interval, tracer)
        print(markdown(result, tracer), flush=True)
        met = met and all(goal.met is not False for goal in goals(result, tracer))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
