"""Asks what is known now of what was found before: a snapshot has the worst, and what is well by now is not there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from loiter.limits import MAX_RANKING_ROWS
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ranking.hosts_called import CalledHost
from loiter_aggregator.reports.snapshot import Snapshot, query

_OF_HOST_FIGURES: Final = (pb.FINDING_KIND_PORTS, pb.FINDING_KIND_TIME_WAIT_OVERFLOW)


async def look_again(fleet: Fleet, snapshot: Snapshot, before: Collection[pb.Finding]) -> Snapshot:
    """Adds to a snapshot of now the hosts and applications that were found before. Raises as the methods of Fleet do.

    It takes three questions at most, however many they are.
    """
    called = await fleet.hosts_called({name for one in before for name in one.hostnames}, snapshot.period.labels)
    named = {one.host_id for one in snapshot.silent}
    return replace(
        snapshot,
        hosts=[*snapshot.hosts, *await _hosts(fleet, snapshot, before, called)],
        apps=[*snapshot.apps, *await _apps(fleet, snapshot, before)],
        # Of very many silent hosts, a snapshot names some.
        silent=[*snapshot.silent, *(_silent(one) for one in called if one.silent and one.host_id not in named)],
        there=frozenset(one.hostname for one in called),
    )


async def _hosts(
    fleet: Fleet, snapshot: Snapshot, before: Collection[pb.Finding], called: Collection[CalledHost]
) -> Collection[pb.HostRank]:
    names = {name for one in before if one.kind in _OF_HOST_FIGURES for name in one.hostnames}
    there = {one.host_id for one in snapshot.hosts}
    wanted = {one.host_id for one in called if one.hostname in names and one.host_id not in there}
    if not wanted:
        return ()
    # By overflows: only then they are added up.
    by = pb.RANK_BY_TIME_WAIT_OVERFLOWS
    return await fleet.host_figures(query(snapshot.period, by, MAX_RANKING_ROWS), wanted)


async def _apps(fleet: Fleet, snapshot: Snapshot, before: Collection[pb.Finding]) -> Collection[pb.AppRank]:
    wanted = {one.app for one in before if one.app} - {one.app for one in snapshot.apps}
    if not wanted:
        return ()
    return await fleet.app_figures(query(snapshot.period, pb.RANK_BY_CLOSE_WAIT_GROWTH, MAX_RANKING_ROWS), wanted)


def _silent(host: CalledHost) -> pb.SilentHost:
    return pb.SilentHost(host_id=host.host_id, hostname=host.hostname, last_report_time=to_timestamp(host.last_seen))
