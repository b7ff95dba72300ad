"""TCP states in lines of a page."""

from __future__ import annotations

from typing import Final

from rich.columns import Columns
from rich.text import Text

from loiter.tcp_states import STATE_NAMES
from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import optional_fields

# Those that people look for stand first.
_FIRST: Final = ("established", "close_wait", "time_wait", "fin_wait1", "fin_wait2")
_ORDER: Final = (*_FIRST, *(state for state in STATE_NAMES if state not in _FIRST))


def states_table(states: sample_pb2.TcpStateCounts) -> Columns:
    """Lays the counts out side by side."""
    counts = optional_fields(states)
    shown = [Text(f"{STATE_NAMES[key]:<14} {cells.count(counts[key]):>9}") for key in _ORDER]
    return Columns(shown, padding=(0, 2), equal=True, column_first=True)
