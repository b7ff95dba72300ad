"""What is written of a simulated fleet is what its reports show."""

from __future__ import annotations

from collections import Counter

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.simulation.encoding import Messages, Reports
from loiter_aggregator.simulation.hosts import SimulatedHost
from loiter_aggregator.simulation.plan import Kind, Plan
from loiter_aggregator.simulation.truth import truth
from support.reports import NOW

PLAN = Plan(hosts=400, start=NOW, shares={Kind.LEAKING: 0.1, Kind.BUSY: 0.1})


def test_the_leaking_processes_are_those_whose_reports_say_so() -> None:
    """By host, pid and start, as the aggregator has them."""
    found = set()
    for number in PLAN.numbers:
        host = SimulatedHost(PLAN, number)
        run = host.life.run(0)
        assert run is not None
        request = pb.StreamReportsRequest.FromString(Reports(PLAN, host, Messages()).report(0, run, 1))
        found |= {
            (host.hostname, one.pid, one.start_time.ToJsonString(), one.name, one.app)
            for one in request.report.sample.processes
            if one.cause == sample_pb2.CAUSE_LEAK
        }
    said = truth(PLAN)
    assert {tuple(row[key] for key in ("host", "pid", "start_time", "name", "app")) for row in
            said["leaking_processes"]} == found  # fmt: skip
    assert len(found) == 80


def test_hosts_and_apps_are_the_sums_of_their_processes() -> None:
    """Fastest first, each of them."""
    said = truth(PLAN)
    for kind, key in (("leaking_hosts", "host"), ("leaking_apps", "app")):
        sums = Counter[str]()
        for row in said["leaking_processes"]:
            sums[row[key]] += row["sockets_per_hour"]
        assert {row[key]: row["sockets_per_hour"] for row in said[kind]} == {
            name: round(rate, 3) for name, rate in sums.items()
        }
        rates = [row["sockets_per_hour"] for row in said[kind]]
        assert rates == sorted(rates, reverse=True)
    assert all(row["hosts"] >= 2 for row in said["leaking_apps"])


def test_every_host_is_named_with_its_kind() -> None:
    """As many of each as the parameters say."""
    said = truth(PLAN)
    kinds = Counter(row["kind"] for row in said["hosts"])
    assert kinds == {"leaking": 40, "busy": 40, "healthy": 320}
    assert said["hosts"][41] == {"host": "sim-00042", "kind": PLAN.place(42)[0].value}
    assert {kind: count for kind, count in said["parameters"]["kinds"].items() if count} == kinds
    leaking = {row["host"] for row in said["hosts"] if row["kind"] == "leaking"}
    assert leaking == {row["host"] for row in said["leaking_hosts"]}
