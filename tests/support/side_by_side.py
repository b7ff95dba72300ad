"""Runs what mostly waits for several cases at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Case = TypeVar("Case")


def side_by_side(test: Callable[[Case, Path], None], cases: Sequence[Case], folder: Path) -> None:
    """Runs the test of each case in a thread, with a folder of its own. Fails, once all have ended, if one fails."""

    def run(place: int) -> None:
        own = folder / str(place)
        own.mkdir()
        try:
            test(cases[place], own)
        except BaseException as error:
            error.add_note(f"case: {cases[place]}")
            raise

    with ThreadPoolExecutor(len(cases)) as pool:
        for running in [pool.submit(run, place) for place in range(len(cases))]:
            running.result()
