"""Fuzzes one target, led by what its inputs make the code do: with_atheris TARGET, and what libFuzzer takes.

Atheris is libFuzzer for Python; see https://github.com/google/atheris and https://llvm.org/docs/LibFuzzer.html.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["loiter", "loiter_agent", "loiter_aggregator"]):
    from fuzz.targets import TARGETS

from fuzz.checking import check


def main() -> None:
    """Runs until libFuzzer has had enough, or something is wrong."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: check(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
