"""The TCP states of the kernel (include/net/tcp_states.h), and what ss(8) calls them."""

from __future__ import annotations

from typing import Final

# The names of the fields of TcpStateCounts, in the kernel's order.
SS_NAMES: Final = {
    "established": "ESTAB",
    "syn_sent": "SYN-SENT",
    "syn_recv": "SYN-RECV",
    "fin_wait1": "FIN-WAIT-1",
    "fin_wait2": "FIN-WAIT-2",
    "time_wait": "TIME-WAIT",
    "close": "UNCONN",
    "close_wait": "CLOSE-WAIT",
    "last_ack": "LAST-ACK",
    "listen": "LISTEN",
    "closing": "CLOSING",
    "new_syn_recv": "NEW-SYN-RECV",
    "bound_inactive": "BOUND-INACTIVE",
}
