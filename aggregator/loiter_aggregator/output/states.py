"""TCP states as ss(8) writes them."""

from __future__ import annotations

from typing import Final

from rich.columns import Columns
from rich.text import Text

from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import optional_fields

STATE_NAMES: Final = {
    "established": "ESTAB",
    "close_wait": "CLOSE-WAIT",
    "time_wait": "TIME-WAIT",
    "fin_wait1": "FIN-WAIT-1",
    "fin_wait2": "FIN-WAIT-2",
    "syn_sent": "SYN-SENT",
    "syn_recv": "SYN-RECV",
    "last_ack": "LAST-ACK",
    "closing": "CLOSING",
    "listen": "LISTEN",
    "new_syn_recv": "NEW-SYN-RECV",
    "bound_inactive": "BOUND-INACTIVE",
    "close": "UNCONN",
}


def states_table(states: sample_pb2.TcpStateCounts) -> Columns:
    """Lays the counts out side by side."""
    counts = optional_fields(states)
    shown = [Text(f"{name:<14} {cells.count(counts[key]):>9}") for key, name in STATE_NAMES.items()]
    return Columns(shown, padding=(0, 2), equal=True, column_first=True)
