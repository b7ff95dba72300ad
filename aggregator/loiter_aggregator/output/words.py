"""What the words of rankings, reports and pages mean, for a reader who has never seen them: said here, and only here.

Each is a sentence or more, without its last full stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# The words of docs/explanation/causes.md.
CAUSE_MEANS: Final[Mapping[str, str]] = {
    "leak": "The program has read the end of the stream and forgot to close",
    "idle_pool": "Pooled connections that the other side closed while nobody used them",
    "stalled_reader": "The program does not read: it is asleep on a lock or on I/O",
    "cpu_starved": "The program gets too little processor time",
    "never_accepted": "The program does not accept",
    "unknown": "They stay, and what could be read does not tell why",
}
_CLOSED_THERE: Final = "The other side has closed the connection, and the program here has not"
STATE_MEANS: Final[Mapping[str, str]] = {
    "CLOSE_WAIT": f"{_CLOSED_THERE}: until it does, the socket keeps its file descriptor. Some for a moment are "
    "normal; more and more of them are a leak",
    "TIME_WAIT": "Closed connections that the kernel remembers for a minute. Many are no fault by themselves",
}
# By the titles of `tables`; what is not here speaks for itself.
COLUMN_MEANS: Final[Mapping[str, str]] = {
    "#": "Place",
    "CLOSE_WAIT": f"Sockets in CLOSE_WAIT at the latest sample. {_CLOSED_THERE}",
    "GROWTH/h": "How many more sockets in CLOSE_WAIT there are each hour: the slope of a least-squares line through "
    "their counts",
    "r²": "How well that line fits the counts, from 0 (not at all) to 1 (exactly)",
    "TREND": "The counts over time, from 0 to their maximum",
    "MAX": "The most in CLOSE_WAIT in any sample",
    "CAUSE": "Why sockets stay in CLOSE_WAIT; “-” where they come and go",
    "STUCK": "Sockets in CLOSE_WAIT for longer than a minute",
    "TIME_WAIT": "Sockets in TIME_WAIT at the latest sample",
    "TW-MEAN": "Sockets in TIME_WAIT, mean of all samples",
    "TW-MAX": "Sockets in TIME_WAIT, the most in any sample",
    "ESTAB": "Sockets in ESTABLISHED at the latest sample",
    "FDS": "Open file descriptors at the latest sample",
    "LIMIT": "The limit on them",
    "HARD": "The hard limit on file descriptors",
    "FD%": "Open file descriptors, in percent of their limit",
    "FD-ETA": "Time until the file descriptors run out, at their present growth",
    "ETA-MIN": "The earliest of that, with 95 % confidence",
    "ETA-MAX": "The latest of that, with 95 % confidence",
    "FDS+/h": "Growth of the open file descriptors, per hour",
    "PORTS%": "Ephemeral ports in use to the destination that has most of them, in percent of those that there are",
    "AGE-P50": "Median of how long sockets have been in CLOSE_WAIT",
    "AGE-P99": "99th percentile of how long sockets have been in CLOSE_WAIT",
    "PROCS": "Processes",
    "ESTABLISHED": "Sockets in ESTABLISHED",
}
_SETTLED: Final = "Sockets in CLOSE_WAIT for about two samples, on which nothing was sent since"
_SURVIVAL: Final = (
    "Survival: of the CLOSE_WAIT sockets of the sample before, the share that this sample still has. Near 100 % for a "
    "leak; near 0 % where sockets come and go (turnover), however many there are"
)
# Of a verdict and the steps to it, as `explanation` writes them.
VERDICT_MEANS: Final[Mapping[str, str]] = {
    "growth": COLUMN_MEANS["GROWTH/h"],
    "r²": COLUMN_MEANS["r²"],
    "are still there": _SURVIVAL,
    "stay": f"{_SETTLED}. What was read is told of these alone",
    "Recv-Q": "Bytes that have come and that the program has not read. 0 in CLOSE_WAIT: it has read the end, and knows",
    "explains of that growth": "The growth of its CLOSE_WAIT sockets over the growth of its descriptors: at 100 % it "
    "is the sockets that use them up",
    "with 95 % confidence": "Were the same growth measured again and again, 95 of 100 such ranges would hold the "
    "true time",
}
EVIDENCE_MEANS: Final[Mapping[str, str]] = {
    "Settled": f"{_SETTLED}. The classes from “read to the end” to “never accepted” are of these, and add up to them",
    "Still there since the sample before": _SURVIVAL,
    "Read to the end": "The receive queue is empty: the program has read the end of the stream, and knows",
    "Only the FIN unread": "That the other side closed is all that waits to be read",
    "A farewell unread": "What a peer says by TLS or HTTP/2 when it hangs up waits to be read",
    "Data unread": "Data waits to be read",
    "Never accepted": "The connection waits in the queue of a listener",
    "Opened by this host": "Connections that this host made, as to a database; the others were accepted",
    "Waited for a processor": "The share of the time in which a thread was ready to run and had no processor",
    "Throttled": "The share of the time in which a CPU quota held it back",
    "Pressure": "The share of the time in which some task of its cgroup waited for the processor, or for I/O (PSI)",
    "Sleep in": "The function of the kernel that a thread sleeps in, and how many do",
}
