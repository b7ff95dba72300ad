"""Says in a sentence or two why a process has CLOSE_WAIT sockets that stay. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from loiter.durations import format_duration
from loiter.text import printable
from loiter_agent.sample import Cause, Evidence, ProcessRow

_MEANINGS: Final[Mapping[Cause, str]] = {
    "leak": "it has read the end of the stream and does not close",
    "idle_pool": "it keeps connections in a pool that the other side has closed",
    "stalled_reader": "it does not read what has come",
    "cpu_starved": "it gets too little processor time",
    "never_accepted": "it does not accept",
    "unknown": "what could be read does not tell why",
}
_SHOWN_PEERS: Final = 3
_SHOWN_CHANNELS: Final = 2


def why(row: ProcessRow) -> str:
    """Says the cause, what it rests on, since when, who is at the other end and when it breaks. "" without a cause."""
    if row.cause is None:
        return ""
    parts = [_MEANINGS[row.cause]]
    if row.cause == "leak" and row.evidence is not None and row.evidence.fin_unread > row.evidence.eof_read:
        parts = ["its threads wait for other things, and nobody reads or closes the connections"]
    if row.evidence is not None:
        parts[0] += f" ({', '.join(_evidence(row.evidence))})"
    if row.close_wait_age_seconds is not None:
        oldest = f"the oldest has waited for {format_duration(row.close_wait_age_seconds.max)}"
        parts.append(oldest + (f", {row.stuck:,} for over a minute" if row.stuck else ""))
    if row.peers:
        parts.append(f"peers: {', '.join(_peers(row))}")
    if row.fd_eta_seconds is not None:
        parts.append(f"no descriptors left in {format_duration(row.fd_eta_seconds)} at this pace")
    return "; ".join(parts)


def _evidence(evidence: Evidence) -> Iterator[str]:
    of = f"of {evidence.settled:,}"
    for count, meaning in (
        (evidence.eof_read, "read to the end"),
        (evidence.fin_unread, "with just the end unread"),
        (evidence.farewell_unread, "with a farewell unread"),
        (evidence.data_unread, "with data unread"),
        (evidence.never_accepted, "never accepted"),
    ):
        if count:
            yield f"{count:,} {of} {meaning}"
    if evidence.accept_queue is not None:
        limit = evidence.accept_queue.limit
        yield f"accept queue {evidence.accept_queue.depth:,}" + ("" if limit is None else f" of {limit:,}")
    if evidence.throttled_share:
        yield f"held back by a CPU quota for {evidence.throttled_share:.0%} of the time"
    if evidence.run_delay_share is not None and evidence.run_delay_share >= 0.1:
        yield f"waiting for a processor for {evidence.run_delay_share:.0%} of the time"
    channels = sorted(evidence.wait_channels.items(), key=lambda item: -item[1])[:_SHOWN_CHANNELS]
    if channels:
        yield "asleep in " + " and ".join(printable(name) for name, _ in channels)


def _peers(row: ProcessRow) -> Iterator[str]:
    for peer in (row.peers or ())[:_SHOWN_PEERS]:
        address = peer.address
        if peer.port is not None:
            address = f"[{address}]:{peer.port}" if ":" in address else f"{address}:{peer.port}"
        yield f"{address} ({peer.count:,})"
