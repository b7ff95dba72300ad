"""Of what was wrong before, what nobody knows of now whether it goes on. Pure.

What is not found any more is over only where it is known to be there and well: a host that is silent, one that nothing
is kept of any more, and one whose figures are not known have recovered from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.reports.difference import FORGOTTEN, Before
from loiter_aggregator.reports.known import Key
from loiter_aggregator.reports.snapshot import Snapshot

_NO_FIGURES: Final = "there are no figures of it now"


def not_known(before: Before, snapshot: Snapshot) -> Mapping[Key, str]:
    """Why it is not known whether findings of before go on that are none now: half a sentence each.

    The snapshot is one that was looked at again with these findings (`look_again`).
    """
    silent = frozenset(host.hostname for host in snapshot.silent)
    hosts = {host.hostname: host for host in snapshot.hosts}
    apps = {app.app: app for app in snapshot.apps}
    found: dict[Key, str] = {}
    for key, was in before.findings.items():
        reason = _unseen(was, silent, snapshot.there, was.app in apps)
        if reason is None and not (_app_is_known(was, apps) if was.app else _host_is_known(was, hosts, snapshot)):
            reason = _NO_FIGURES
        if reason is not None:
            found[key] = reason
    return found


def _unseen(was: pb.Finding, silent: frozenset[str], there: frozenset[str], app_is_there: bool) -> str | None:
    """Why nothing can be seen of what it was found on."""
    if was.kind != pb.FINDING_KIND_SILENT and (names := [name for name in was.hostnames if name in silent]):
        return f"{_names(names)} silent"
    if was.hostnames and not app_is_there and there.isdisjoint(was.hostnames):
        return FORGOTTEN
    return None


def _names(hostnames: Sequence[str]) -> str:
    first = printable(hostnames[0])
    return f"{first} is" if len(hostnames) == 1 else f"{first} and {len(hostnames) - 1:,} more are"


def _app_is_known(was: pb.Finding, apps: Mapping[str, pb.AppRank]) -> bool:
    """Agents report every process that has what is found here: an application that is not there has none of it."""
    app = apps.get(was.app)
    if app is None:
        return True
    if was.kind == pb.FINDING_KIND_CLOSE_WAIT_GROWTH:
        return app.close_wait.HasField("growth_per_hour")
    if was.kind == pb.FINDING_KIND_STUCK:
        return app.HasField("stuck") or app.cause == sample_pb2.CAUSE_IDLE_POOL
    return app.HasField("fd_share") or app.HasField("fd_forecast")


def _host_is_known(was: pb.Finding, hosts: Mapping[str, pb.HostRank], snapshot: Snapshot) -> bool:
    if was.kind == pb.FINDING_KIND_SILENT:
        return True  # it is not silent, and it is there
    name = next(iter(was.hostnames), "")
    if name not in hosts:
        return False
    if was.kind == pb.FINDING_KIND_PORTS:  # a host that connects to nobody has no share
        return hosts[name].HasField("ports_share") or name not in snapshot.degraded
    return hosts[name].HasField("time_wait_overflows")
