"""Limits on what goes over the wire. The agent keeps them, the aggregator enforces them."""

from __future__ import annotations

from typing import Final

DEFAULT_SERVER: Final = "127.0.0.1:7433"
DEFAULT_HTTP: Final = "127.0.0.1:7434"

MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_PROCESSES: Final = 2_000
MAX_COLLECTORS: Final = 64
MAX_PEERS: Final = 10
MAX_TIME_WAIT_GROUPS: Final = 100
MAX_PORT_BUDGETS: Final = 50
MAX_NAMESPACES: Final = 1_000
# Thread states and wait channels of one process.
MAX_EVIDENCE_ENTRIES: Final = 16
MAX_STRING_CHARS: Final = 256
MAX_LABELS: Final = 32
MAX_LABEL_KEY_CHARS: Final = 63
MAX_LABEL_VALUE_CHARS: Final = 255

# CLOSE_WAIT sockets older than this are stuck.
STUCK_AFTER_SECONDS: Final = 60.0

MIN_INTERVAL_SECONDS: Final = 0.5
MAX_INTERVAL_SECONDS: Final = 3_600.0

# A clock that is off by less may be the network's doing.
TOLERATED_SKEW_SECONDS: Final = 5.0

MAX_WINDOW_SECONDS: Final = 366 * 86_400.0
MAX_RANKING_ROWS: Final = 10_000
# Parts of a window in a history.
MAX_HISTORY_POINTS: Final = 1_000
# Sockets in one answer of an agent.
MAX_LISTED_SOCKETS: Final = 1_000

LABEL_KEY_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_.-]*"
HOST_ID_PATTERN: Final = r"[0-9a-f]{32}"
BOOT_ID_PATTERN: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
