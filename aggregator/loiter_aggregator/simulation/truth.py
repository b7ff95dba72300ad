"""What is true of a simulated fleet, so that a ranking of it can be scored. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.simulation.hosts import Process, SimulatedHost, hostname
from loiter_aggregator.simulation.plan import Kind, Plan

Row = dict[str, Any]


def truth(plan: Plan) -> Row:
    """The document: the parameters, the kind of each host, and what leaks, fastest first."""
    hosts: list[Row] = []
    processes: list[Row] = []
    for number in plan.of_kind(Kind.LEAKING):
        host = SimulatedHost(plan, number)
        leaking = [one for one in host.processes(0) if one.slot.leak is not None]
        rows = [_process(host, one) for one in leaking]
        processes += rows
        hosts.append({"host": host.hostname, "sockets_per_hour": _sum(rows)})
    return {
        "parameters": {
            "hosts": plan.hosts,
            "seed": plan.seed,
            "start_time": _text(plan.start),
            "interval_seconds": plan.interval / 1_000,
            "processes": plan.processes,
            "kinds": {kind.value: plan.counts[kind] for kind in Kind},
        },
        "hosts": [{"host": hostname(number), "kind": plan.place(number)[0].value} for number in plan.numbers],
        "leaking_hosts": _fastest_first(hosts),
        "leaking_processes": _fastest_first(processes),
        "leaking_apps": _fastest_first(_app(app, processes) for app in {row["app"] for row in processes}),
    }


def _process(host: SimulatedHost, process: Process) -> Row:
    leak, app = process.slot.leak, process.slot.app
    assert leak is not None, "of those that leak"
    return {
        "host": host.hostname,
        "pid": process.pid,
        "start_time": _text(process.start // 10 * 10),
        "name": app.name,
        "app": app.app,
        "sockets_per_hour": round(leak.per_hour, 3),
    }


def _app(app: str, processes: list[Row]) -> Row:
    rows = [row for row in processes if row["app"] == app]
    return {
        "app": app,
        "hosts": len({row["host"] for row in rows}),
        "processes": len(rows),
        "sockets_per_hour": _sum(rows),
    }


def _sum(rows: list[Row]) -> float:
    total: float = sum(row["sockets_per_hour"] for row in rows)
    return round(total, 3)


def _fastest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["sockets_per_hour"], *(str(value) for value in row.values())))


def _text(time: int) -> str:
    return to_timestamp(time).ToJsonString()
