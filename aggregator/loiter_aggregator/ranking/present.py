"""The processes that are in their host's latest sample of the window.

The latest sample is that of those that have processes: an agent over its budget may leave them out.
"""

from __future__ import annotations

from typing import Final

from loiter_aggregator.ranking.query import KNOWS_PROCESSES, Ranking

# A series is a process: a restart has another start time and so starts another one.
SERIES: Final = "host_key, pid, start_time"


def latest_samples(ranking: Ranking, only: str = "") -> str:
    """The relation of when the latest sample with processes of each host was taken, `latest`.

    `only` is a further condition on `host_key`, with AND before it.
    """
    return f"""
        SELECT host_key, max(ts) AS latest FROM host_sample
        WHERE {ranking.within}{only} AND {KNOWS_PROCESSES} GROUP BY host_key"""


def present_processes(ranking: Ranking, only: str = "") -> str:
    """The relation of the processes in the latest samples, with what is known of them there."""
    return f"""
        SELECT {SERIES}, max(ts) AS last_sample, max(identity_key) AS identity_key,
            max(close_wait) AS close_wait_now, max(time_wait) AS time_wait_now, max(established) AS established,
            max(fd_open) AS fd_open, max(fd_limit) AS fd_limit, max(fd_limit_hard) AS fd_limit_hard,
            CASE WHEN max(fd_limit) > 0 THEN CAST(max(fd_open) AS DOUBLE) / max(fd_limit) END AS fd_share,
            max(sockets) AS sockets, max(cause) AS cause, max(stuck) AS stuck, max(age_p50_seconds) AS age_p50,
            max(age_p99_seconds) AS age_p99, max(age_max_seconds) AS age_max, max(ports_share) AS ports_share
        FROM process_sample JOIN ({latest_samples(ranking, only)}) AS newest USING (host_key)
        WHERE {ranking.window} AND ts = latest GROUP BY {SERIES}"""
