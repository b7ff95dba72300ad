"""Which rows of a ranking are wanted: conditions in SQL.

What people typed is bound as a parameter, never written into it.
"""

from __future__ import annotations

from collections.abc import Iterable

from loiter_aggregator.ranking.present import present_processes
from loiter_aggregator.ranking.query import Ranking


def holds(column: str) -> str:
    """A condition: a text contains what is looked for, in whatever case. No character stands for another."""
    return f"contains(lower({column}), lower($contains))"


def of_host(ranking: Ranking) -> str:
    """Further conditions on a row with a `host_key`, each with AND before it: the app is on the host, its name fits."""
    conditions = []
    if ranking.contains:
        conditions.append(f"host_key IN (SELECT host_key FROM host WHERE {holds('hostname')})")
    if ranking.app:
        conditions.append(f"host_key IN ({_hosts_of_app(ranking)})")
    return "".join(f" AND {condition}" for condition in conditions)


def of_process(ranking: Ranking) -> list[str]:
    """Conditions on a row with the columns of a host, of an identity, and `cause`."""
    conditions = of_app(ranking, ("hostname", "name", "app"))
    return conditions if ranking.cause is None else [*conditions, is_cause(ranking.cause)]


def of_app(ranking: Ranking, names: Iterable[str] = ("app",)) -> list[str]:
    """Conditions on a row with the column `app`, and those of `names` that are looked through."""
    conditions = ["app = $app"] if ranking.app else []
    if ranking.apps is not None:
        conditions.append("app IN (SELECT unnest($apps::VARCHAR[]))")
    return [*conditions, f"({' OR '.join(map(holds, names))})"] if ranking.contains else conditions


def is_cause(cause: int) -> str:
    """A condition on a row with the column `cause`."""
    return f"cause = {int(cause)}"


def where(conditions: Iterable[str]) -> str:
    """The clause; nothing without conditions."""
    joined = " AND ".join(conditions)
    return f"WHERE {joined}" if joined else ""


def _hosts_of_app(ranking: Ranking) -> str:
    return f"""
        SELECT host_key FROM ({present_processes(ranking)}) AS present JOIN identity USING (identity_key)
        WHERE app = $app"""
