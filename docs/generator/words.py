"""The words that answers are made of: measures, columns, causes and the like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from generator.markdown import clause, code, table
from generator.proto import contract
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output.tables import APPS, GROUPS, HOSTS, PROCESSES, Column, by_measure
from loiter_aggregator.queries import MEASURES

_RANKINGS: Final = {"hosts": HOSTS, "processes": PROCESSES, "apps": APPS, "groups": GROUPS}


def measures() -> str:
    """What rankings are by."""
    comments = contract().enums["RankBy"]
    return table(
        ("`--by`", "ranks by"),
        ((code(name), clause(comments.comment_of(pb.RankBy.Name(by)))) for name, by in MEASURES.items()),
    )


def columns() -> str:
    """The columns of the tables: the JSON key of each, and where it is shown."""
    titles = dict.fromkeys(column.title for ranking in _RANKINGS.values() for column in ranking)
    return table(("column", "JSON key", "ranking of", "shown"), (_column(title) for title in titles))


def causes() -> str:
    """Why sockets stay in CLOSE_WAIT."""
    return _enum("Cause", "cause")


def owners() -> str:
    """How owners of TIME_WAIT sockets are found."""
    return _enum("OwnerSource", "how")


def degradations() -> str:
    """What an agent leaves out."""
    return _enum("Degradation", "step")


def losses() -> str:
    """Why samples are lost."""
    return _enum("LossReason", "reason")


def samplers() -> str:
    """How sockets are read."""
    return _enum("Sampler", "sampler")


def _enum(name: str, title: str) -> str:
    """A table of the values that mean something, by the words that JSON has for them."""
    values = contract().enums[name].members
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return table(
        (title, "meaning"),
        ((code(one.name.removeprefix(prefix).lower()), clause(one.comment)) for one in values if one.number),
    )


def _column(title: str) -> tuple[str, str, str, str]:
    having = {name: ranking for name, ranking in _RANKINGS.items() if any(one.title == title for one in ranking)}
    keys = dict.fromkeys(column.key for ranking in having.values() for column in ranking if column.title == title)
    shown: dict[str, list[str]] = {}
    for name, ranking in having.items():
        shown.setdefault(_shown(ranking, title), []).append(name)
    if len(shown) > 1:
        where = "; ".join(f"of {' and '.join(names)}: {by}" for by, names in shown.items())
    else:
        where = next(iter(shown))
    return code(title), ", ".join(map(code, keys)), ", ".join(having), where


def _shown(ranking: Sequence[Column], title: str) -> str:
    """By which measures a column is in a table of 80 columns."""
    by = [one for one in MEASURES if any(c.title == title and not c.wide_only for c in by_measure(ranking, one))]
    if len(by) == len(MEASURES):
        return "always"
    return f"by {', '.join(map(code, by))}" if by else "`-o wide`"
