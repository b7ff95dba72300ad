"""The command `loiter`."""

from __future__ import annotations

import io
import os
import sys

from loiter import grpc_core


def main() -> None:
    """Runs the command and exits: 0 good, 1 failed, 2 wrong usage."""
    grpc_core.configure(os.environ)
    # A terminal that can not show a character gets a stand-in for it, not an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        from loiter_aggregator.commands import loiter
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "duckdb", "numpy"):
            raise
        print("loiter: only the agent is installed here; install 'loiter[aggregator]' for this", file=sys.stderr)
        sys.exit(1)
    try:
        loiter(prog_name="loiter")
    except OSError as error:  # the disk that the answer is written to is full, say
        print(f"loiter: cannot write the answer: {error.strerror}", file=sys.stderr)
        # What is left in the buffer can not be written either, and Python would say so once more.
        os._exit(1)


if __name__ == "__main__":
    main()
