"""The event loop has its turn soon, and nothing is left behind for that."""

from __future__ import annotations

import sys
from pathlib import Path

from support.programs import run

_LOOK = """
import gc, sys
from loiter_aggregator.turn_taking import give_way_soon
import duckdb
give_way_soon()
gc.collect()
print(sys.getswitchinterval(), gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000)
"""


def test_what_stays_is_not_looked_through_again(tmp_path: Path) -> None:
    """Threads give way within a millisecond. As the program ends, its modules end in order: DuckDB has no complaint."""
    script = tmp_path / "look.py"
    script.write_text(_LOOK)
    done = run([sys.executable, script])
    assert (done.stdout, done.stderr) == ("0.001 True True\n", "")
