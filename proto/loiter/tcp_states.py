"""The TCP states of the kernel (include/net/tcp_states.h), as people read them: ESTAB and UNCONN as ss(8) has them."""

from __future__ import annotations

from typing import Final

# The names of the fields of TcpStateCounts, in the kernel's order.
STATE_NAMES: Final = {
    "established": "ESTAB",
    "syn_sent": "SYN_SENT",
    "syn_recv": "SYN_RECV",
    "fin_wait1": "FIN_WAIT1",
    "fin_wait2": "FIN_WAIT2",
    "time_wait": "TIME_WAIT",
    "close": "UNCONN",
    "close_wait": "CLOSE_WAIT",
    "last_ack": "LAST_ACK",
    "listen": "LISTEN",
    "closing": "CLOSING",
    "new_syn_recv": "NEW_SYN_RECV",
    "bound_inactive": "BOUND_INACTIVE",
}
