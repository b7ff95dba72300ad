"""The verbs that only ask start without the store."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("verb", ["top", "host", "sockets", "fleet", "report", "completion", "ca", "token"])
def test_a_verb_that_asks_imports_neither_the_store_nor_the_live_view(verb: str) -> None:
    """They take longer to import than a question takes to answer."""
    program = (
        f"import sys, loiter_aggregator.commands.{verb}\n"
        "print(*sorted(name for name in ('duckdb', 'numpy', 'apscheduler', 'textual', 'loiter_aggregator.store')"
        " if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
    assert done.stderr == ""


def test_serve_is_read_before_grpc() -> None:
    """It sets what gRPC reads from the environment as it is imported."""
    program = "import sys, loiter_aggregator.commands.serve\nprint('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_the_list_of_verbs_imports_none_of_them() -> None:
    """`loiter --help` and the completion of a verb's name are quick."""
    program = "import sys, loiter_aggregator.commands\nprint('grpc' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]
