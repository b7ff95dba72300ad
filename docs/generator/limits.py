"""What both sides of the wire contract hold to."""

from __future__ import annotations

from typing import Final

from generator.markdown import code, table
from loiter import limits as declared

_MEANINGS: Final = {
    "MAX_MESSAGE_BYTES": "bytes of one message",
    "MAX_PROCESSES": "processes of one sample",
    "MAX_COLLECTORS": "collectors of one sample",
    "MAX_PEERS": "peers of one process",
    "MAX_TIME_WAIT_GROUPS": "groups of TIME_WAIT sockets of one sample",
    "MAX_PORT_BUDGETS": "budgets of ephemeral ports of one sample",
    "MAX_NAMESPACES": "network namespaces of one sample",
    "MAX_EVIDENCE_ENTRIES": "thread states, and wait channels, of one process",
    "MAX_STRING_CHARS": "characters of a text",
    "MAX_LABELS": "labels of one host",
    "MAX_LABEL_KEY_CHARS": "characters of a label's name",
    "MAX_LABEL_VALUE_CHARS": "characters of a label's value",
    "STUCK_AFTER_SECONDS": "seconds in CLOSE_WAIT after which a socket is stuck",
    "MIN_INTERVAL_SECONDS": "seconds between two samples at the least",
    "MAX_INTERVAL_SECONDS": "seconds between two samples at the most",
    "TOLERATED_SKEW_SECONDS": "seconds that a clock may be off before it is said and set right",
    "MAX_WINDOW_SECONDS": "seconds of a window",
    "MAX_RANKING_ROWS": "rows of a ranking",
    "MAX_HISTORY_POINTS": "parts of a window in a history",
    "MAX_LISTED_SOCKETS": "sockets in one answer of an agent",
}


def limits() -> str:
    """A table. Raises KeyError for a limit that has no meaning here."""
    rows = (
        (code(name), f"{value:,.10g}", _MEANINGS[name])
        for name, value in vars(declared).items()
        if name.isupper() and isinstance(value, int | float)
    )
    return table(("limit", "value", "of"), rows)
