"""What can be ranked: how it is asked for, and how its rows are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import FleetClient
from loiter_aggregator.output.rows import Row, app_row, group_row, host_row, process_row
from loiter_aggregator.output.tables import APPS, GROUPS, HOSTS, PROCESSES, Column, coverage_line

Ranked = tuple[list[Row], pb.FleetCoverage]


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be ranked: its name, which answers have for their rows, the question, and its rows and columns."""

    name: str
    question: Callable[[pb.RankingQuery], Message]
    row: Callable[[int, Any], Row]
    columns: Sequence[Column]
    empty: Row

    @property
    def title(self) -> str:
        """What people read."""
        return self.name.capitalize()

    def ask(self, client: FleetClient, query: pb.RankingQuery) -> Ranked:
        """Asks an aggregator: its method is called RankHosts, RankProcesses and so on."""
        answer = client.ask(getattr(client.stub, f"Rank{self.title}"), self.question(query))
        return self.rows(answer), answer.coverage

    def rows(self, answer: Any) -> list[Row]:
        """The rows of an answer, worst first."""
        return [self.row(rank, one) for rank, one in enumerate(getattr(answer, self.name), start=1)]


GROUPED: Final = "groups"


def groups_by(label: str) -> Kind:
    """Groups of hosts: those that carry the same value of a label."""
    empty = group_row(0, pb.GroupRank())
    return Kind(GROUPED, lambda query: pb.RankGroupsRequest(query=query, label=label), group_row, GROUPS, empty)


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("hosts", lambda query: pb.RankHostsRequest(query=query), host_row, HOSTS, host_row(0, pb.HostRank())),
        Kind(
            "processes",
            lambda query: pb.RankProcessesRequest(query=query),
            process_row,
            PROCESSES,
            process_row(0, pb.ProcessRank()),
        ),
        Kind("apps", lambda query: pb.RankAppsRequest(query=query), app_row, APPS, app_row(0, pb.AppRank())),
    )
}


def nobody_owns(rows: Sequence[Row], by: str) -> bool:
    """Whether a ranking is by TIME_WAIT sockets, and of nothing: the kernel keeps no owner of them, only the host."""
    return by.startswith("time-wait") and bool(rows) and all(row["time_wait"] is None for row in rows)


def notes(rows: Sequence[Row], coverage: pb.FleetCoverage, by: str) -> list[str]:
    """What a ranking rests on, and what to know of it."""
    said = [coverage_line(coverage)]
    if nobody_owns(rows, by):
        said.append("the kernel keeps no owner of TIME_WAIT sockets: rank hosts by them")
    return said
