"""What can be ranked: how an aggregator is asked for it, and which columns show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import FleetClient
from loiter_aggregator.output.rows import Row, app_row, group_row, host_row, process_row
from loiter_aggregator.output.tables import APPS, GROUPS, HOSTS, PROCESSES, Column, coverage_line

Ranked = tuple[list[Row], pb.FleetCoverage]


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be ranked: how it is asked for, and which columns show it."""

    ask: Callable[[FleetClient, pb.RankingQuery], Ranked]
    columns: Sequence[Column]
    empty: Row


def _hosts(client: FleetClient, query: pb.RankingQuery) -> Ranked:
    answer = client.ask(client.stub.RankHosts, pb.RankHostsRequest(query=query))
    return [host_row(rank, host) for rank, host in enumerate(answer.hosts, start=1)], answer.coverage


def _processes(client: FleetClient, query: pb.RankingQuery) -> Ranked:
    answer = client.ask(client.stub.RankProcesses, pb.RankProcessesRequest(query=query))
    return [process_row(rank, process) for rank, process in enumerate(answer.processes, start=1)], answer.coverage


def _apps(client: FleetClient, query: pb.RankingQuery) -> Ranked:
    answer = client.ask(client.stub.RankApps, pb.RankAppsRequest(query=query))
    return [app_row(rank, app) for rank, app in enumerate(answer.apps, start=1)], answer.coverage


def groups_by(label: str) -> Kind:
    """Groups of hosts: those that carry the same value of a label."""

    def ask(client: FleetClient, query: pb.RankingQuery) -> Ranked:
        answer = client.ask(client.stub.RankGroups, pb.RankGroupsRequest(query=query, label=label))
        return [group_row(rank, group) for rank, group in enumerate(answer.groups, start=1)], answer.coverage

    return Kind(ask, GROUPS, group_row(0, pb.GroupRank()))


KINDS: Final = {
    "hosts": Kind(_hosts, HOSTS, host_row(0, pb.HostRank())),
    "processes": Kind(_processes, PROCESSES, process_row(0, pb.ProcessRank())),
    "apps": Kind(_apps, APPS, app_row(0, pb.AppRank())),
}
GROUPED: Final = "groups"


def notes(rows: Sequence[Row], coverage: pb.FleetCoverage, by: str) -> list[str]:
    """What a ranking rests on, and what to know of it."""
    said = [coverage_line(coverage)]
    if by.startswith("time-wait") and rows and all(row["time_wait"] is None for row in rows):
        said.append("the kernel keeps no owner of TIME-WAIT sockets: rank hosts by them")
    return said
