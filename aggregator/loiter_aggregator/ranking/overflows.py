"""Adds up the TIME_WAIT sockets that hosts destroyed for want of room within a window.

The kernel counts them since boot (TCPTimeWaitOverflow of /proc/net/netstat): what is asked for is the sum of the
increases from sample to sample. A count that is less than before began anew at 0, by a reboot, and all of it is an
increase. What came before the first sample of the window is not known to be within it. An agent may send any count:
of what adds up to more than a field of a message holds, that is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from loiter_aggregator.ranking.query import Ranking, among
from loiter_aggregator.store.question import Reader

_COUNTER: Final = "time_wait_overflows"
_MOST: Final = 2**63 - 1


def overflows(ranking: Ranking, only: str = "") -> str:
    """The relation of the overflows of each host; NULL where fewer than two samples know the counter.

    `only` is a further condition on `host_key`, with AND before it. To order the samples of a fleet takes long, and
    most counters stand still: only those that move are looked at sample by sample.
    """
    known = f"{ranking.window}{only} AND {_COUNTER} IS NOT NULL"
    return f"""
        WITH counters AS (
            SELECT host_key, count(*) AS counter_n, min({_COUNTER}) < max({_COUNTER}) AS moves
            FROM host_sample WHERE {known} GROUP BY host_key),
        steps AS (
            SELECT host_key, {_COUNTER} AS value, lag({_COUNTER}) OVER (PARTITION BY host_key ORDER BY ts) AS before
            FROM host_sample WHERE {known} AND host_key IN (SELECT host_key FROM counters WHERE moves)),
        increases AS (
            SELECT host_key, least({_MOST}, sum(CASE WHEN value >= before THEN value - before ELSE value END))
                AS increase
            FROM steps WHERE before IS NOT NULL GROUP BY host_key)
        SELECT host_key, CASE WHEN moves THEN increase WHEN counter_n > 1 THEN 0 END AS {_COUNTER}
        FROM counters LEFT JOIN increases USING (host_key)"""


def host_overflows(store: Reader, ranking: Ranking, host_keys: Iterable[int]) -> dict[int, int]:
    """Reads the overflows of hosts of which they are known, by host key. Raises StoreError."""
    keys = list(host_keys)
    if not keys:
        return {}
    only = f" AND {among('host_key', keys)}"
    rows = store.read(f"SELECT * FROM ({overflows(ranking, only)}) AS overflows")
    return {key: int(count) for key, count in rows if count is not None}
