"""What a report is made of: the fleet over a period, asked by a few questions, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.clock import to_duration, to_timestamp
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ranking.cause_counts import CauseCount

# So many rows hold all apps and processes of most fleets, and then one ranking of them is enough: it has all figures.
_ROWS: Final = 1_000
# Of a fleet with more, the worst by what else a finding is about.
_ROWS_BY_OTHERS: Final = 200
_HISTORY_POINTS: Final = 120


@dataclass(frozen=True, slots=True)
class Period:
    """From when until when, in milliseconds since the epoch, and on which hosts; `past` where it ended before now."""

    start: int
    end: int
    labels: Mapping[str, str]
    past: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet over a period. Rankings are by CLOSE_WAIT growth, the worst first; what is worst otherwise follows.

    `degraded` has the names of hosts whose agents leave out more than samples; `there` those of hosts that were asked
    for besides and that the store knows.
    """

    period: Period
    hosts: Sequence[pb.HostRank]
    processes: Sequence[pb.ProcessRank]
    apps: Sequence[pb.AppRank]
    causes: Sequence[CauseCount]
    silent: Sequence[pb.SilentHost]
    coverage: pb.FleetCoverage
    degraded: frozenset[str] = frozenset()
    there: frozenset[str] = frozenset()

    @property
    def samples(self) -> int:
        """How many samples there are of the host that has most of them, of those listed."""
        return max((host.close_wait.samples for host in self.hosts), default=0)


async def take_snapshot(fleet: Fleet, period: Period) -> Snapshot:
    """Asks. Raises as the methods of Fleet do."""
    apps = await _apps(fleet, period)
    processes = await _processes(fleet, period)
    hosts = await _hosts(fleet, period)
    causes = await fleet.count_causes((period.end - period.start) / 1_000, period.labels)
    answer = await fleet.get_fleet(
        pb.GetFleetRequest(window=to_duration(period.end - period.start), labels=period.labels)
    )
    leave_out = (one for one in answer.degraded_hosts if one.degradation >= sample_pb2.DEGRADATION_NO_DETAIL)
    degraded = frozenset(one.hostname for one in leave_out)
    return Snapshot(period, hosts, processes, apps, causes, answer.silent_hosts, answer.coverage, degraded)


async def take_earlier_snapshot(fleet: Fleet, period: Period) -> Snapshot:
    """Asks what takes part in a comparison, of a time that is past."""
    apps = await _apps(fleet, period)
    return Snapshot(period, await _hosts(fleet, period), (), apps, (), (), pb.FleetCoverage())


async def take_history(fleet: Fleet, period: Period) -> pb.GetHistoryResponse:
    """Asks how the counts of the fleet went."""
    return await fleet.get_history(
        pb.GetHistoryRequest(
            window=to_duration(period.end - period.start),
            end_time=to_timestamp(period.end),
            labels=period.labels,
            points=_HISTORY_POINTS,
        )
    )


async def _apps(fleet: Fleet, period: Period) -> list[pb.AppRank]:
    async def ask(by: pb.RankBy.ValueType, limit: int) -> Sequence[pb.AppRank]:
        return (await fleet.rank_apps(pb.RankAppsRequest(query=query(period, by, limit)))).apps

    apps = await ask(pb.RANK_BY_CLOSE_WAIT_GROWTH, _ROWS)
    others: list[pb.AppRank] = []
    if len(apps) == _ROWS:
        others += await ask(pb.RANK_BY_STUCK, _ROWS_BY_OTHERS)
        others += await ask(pb.RANK_BY_FD_ETA, _ROWS_BY_OTHERS)
    return list({app.app: app for app in (*apps, *others)}.values())


async def _processes(fleet: Fleet, period: Period) -> list[pb.ProcessRank]:
    async def ask(by: pb.RankBy.ValueType, limit: int) -> Sequence[pb.ProcessRank]:
        return (await fleet.rank_processes(pb.RankProcessesRequest(query=query(period, by, limit)))).processes

    processes = await ask(pb.RANK_BY_CLOSE_WAIT_GROWTH, _ROWS)
    others: list[pb.ProcessRank] = []
    if len(processes) == _ROWS:
        others += await ask(pb.RANK_BY_FD_ETA, _ROWS_BY_OTHERS)
    found = {(one.host_id, one.pid, one.start_time.ToNanoseconds()): one for one in (*processes, *others)}
    return list(found.values())


async def _hosts(fleet: Fleet, period: Period) -> list[pb.HostRank]:
    async def ask(by: pb.RankBy.ValueType) -> Sequence[pb.HostRank]:
        return (await fleet.rank_hosts(pb.RankHostsRequest(query=query(period, by, _ROWS_BY_OTHERS)))).hosts

    hosts = await ask(pb.RANK_BY_CLOSE_WAIT_GROWTH)
    others: list[pb.HostRank] = []
    if len(hosts) == _ROWS_BY_OTHERS:
        for by in (pb.RANK_BY_PORTS, pb.RANK_BY_TIME_WAIT_OVERFLOWS):
            others += await ask(by)
    return list({host.host_id: host for host in (*hosts, *others)}.values())


def query(period: Period, by: pb.RankBy.ValueType, limit: int) -> pb.RankingQuery:
    """Asks for a ranking over a period."""
    return pb.RankingQuery(
        by=by,
        window=to_duration(period.end - period.start),
        end_time=to_timestamp(period.end) if period.past else None,
        limit=limit,
        labels=period.labels,
    )
