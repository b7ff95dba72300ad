"""Fuzzes every target long, and says what was run: soak [--inputs N] [--seed N] [TARGET…]. Exits 1 if one broke.

With atheris where it can be had, else with the mutations that the tests use.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Final

from fuzz.checking import check
from fuzz.mutations import mutations
from fuzz.scratch import temporary_folder
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

_INPUTS: Final = 1_200_000
# Of one input, and of the process.
_MOST_SECONDS: Final = 20
_MOST_MEGABYTES: Final = 1_000
_LONGEST_INPUT: Final = 16_384


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target: how many inputs it had in how many seconds, and what broke it, if anything."""

    target: str
    inputs: int
    seconds: float
    failure: str | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzzes the targets in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=_INPUTS, help="in all; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    options = parser.parse_args(arguments)
    targets = options.targets or list(TARGETS)
    each = -(-options.inputs // len(targets))
    fuzz = _with_atheris if find_spec("atheris") else _with_mutations
    print(f"{each:,} inputs a target, by {fuzz.__name__.removeprefix('_with_')}, seed {options.seed}", flush=True)
    outcomes = []
    for target in targets:
        outcomes.append(fuzz(target, each, options.seed))
        _show(outcomes[-1])
    total = sum(outcome.inputs for outcome in outcomes)
    print(f"{total:,} inputs in all, {sum(outcome.failure is not None for outcome in outcomes)} targets broke")
    sys.exit(any(outcome.failure for outcome in outcomes))


def _show(outcome: Outcome) -> None:
    pace = outcome.inputs / outcome.seconds if outcome.seconds else 0
    print(f"{outcome.target:<22} {outcome.inputs:>9,} inputs {pace:>8,.0f}/s  {outcome.failure or 'sound'}", flush=True)


def _with_atheris(target: str, inputs: int, seed: int) -> Outcome:
    started = time.monotonic()
    with temporary_folder() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds(target)):
            (corpus / f"seed-{number}").write_bytes(data)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "fuzz.with_atheris",
                target,
                f"-runs={inputs}",
                f"-seed={seed}",
                f"-max_len={_LONGEST_INPUT}",
                f"-timeout={_MOST_SECONDS}",
                f"-rss_limit_mb={_MOST_MEGABYTES}",
                f"-artifact_prefix={folder}/",
                corpus,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": folder},
            check=False,
        )
        seconds = time.monotonic() - started
        ran = max(map(int, re.findall(r"^(?:#|Done )(\d+)\s", done.stdout, re.MULTILINE)), default=0)
        broke = _kept(Path(folder), target) if done.returncode else None
    return Outcome(
        target, ran, seconds, f"broke: {_reason(done.stdout)}; input in {broke}" if done.returncode else None
    )


def _kept(folder: Path, target: str) -> Path | None:
    """Keeps the input that broke a target, for a person to look at."""
    for file in folder.glob("*-*"):
        kept = Path(tempfile.gettempdir()) / f"{target}-{file.name}"
        kept.write_bytes(file.read_bytes())
        return kept
    return None


def _reason(log: str) -> str:
    found = re.search(r"Uncaught Python exception: ===\n(.+)|ERROR: (libFuzzer: .+)", log)
    return (found[1] or found[2]) if found else " ".join(log.split())[-300:]


def _with_mutations(target: str, inputs: int, seed: int) -> Outcome:
    started = time.monotonic()
    ran = 0
    failure = None
    for data in islice(mutations(seeds(target), seed), inputs):
        ran += 1
        try:
            check(TARGETS[target], data)
        except Exception as error:  # whatever it is, it is what is looked for
            failure = f"broke: {error!r} on {data[:200]!r}"
            break
    return Outcome(target, ran, time.monotonic() - started, failure)


if __name__ == "__main__":
    main()
