"""`loiter alerts`, against what an aggregator answers from alerts that it kept."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.memory import FILE, Memory, remember
from loiter_aggregator.alerts.state import Alert, Member, Subject
from loiter_aggregator.commands import loiter
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.links import Links
from support.aggregators import FakeClock, open_store
from support.alerts import alert_file
from support.reports import MINUTE, NOW

HOSTILE = "<script>alert(1)</script>\x1b[2J=cmd()"
RULES = (
    '[[rule]]\nname = "leak"\nkind = "close-wait-growth"\nabove = 100\nseverity = "critical"\n'
    '[[rule]]\nname = "silent"\nkind = "host-silent"\nabove = "5m"\n'
    '[[alertmanager]]\nurl = "http://127.0.0.1:9"\n'
)
ALERTS = (
    Alert(
        "leak",
        "close-wait-growth",
        "critical",
        Subject(app=HOSTILE),
        NOW - 20 * MINUTE,
        NOW - 10 * MINUTE,
        members={
            f"{number:032x}": Member(f"web-{number}", 6_777.0 + number, sample_pb2.CAUSE_LEAK) for number in range(200)
        },
    ),
    Alert("leak", "close-wait-growth", "critical", Subject(app="=cmd()"), NOW, members={"b": Member("b", 120.0)}),
    Alert(
        "silent",
        "host-silent",
        "warning",
        Subject(host=HOSTILE),
        NOW - MINUTE,
        NOW - MINUTE,
        resolved_at=NOW,
        members={"a": Member(HOSTILE, 360.0, stale=True)},
    ),
)


def _handler(alerting: Alerting) -> grpc.GenericRpcHandler:
    """Answers this question alone, as FleetService does."""

    def answer(request: pb.ListAlertsRequest, context: Any) -> pb.ListAlertsResponse:  # noqa: ARG001 - gRPC's signature
        return asyncio.run(alerting.list_alerts(request))

    method = grpc.unary_unary_rpc_method_handler(
        answer, pb.ListAlertsRequest.FromString, pb.ListAlertsResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("loiter.v1.FleetService", {"ListAlerts": method})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("alerts")
    remember(folder / FILE, Memory({alert.key: alert for alert in ALERTS}))
    store, clock = open_store(folder / "store"), FakeClock()
    alerting = Alerting(
        alert_file(folder, RULES),
        Fleet(store, clock, Counters(started=NOW)),
        Links("https://loiter.example"),
        folder,
        clock,
    )
    asyncio.run(alerting.recall())
    alerting._left_out["leak"] = 1_710
    answering = grpc.server(ThreadPoolExecutor(1))
    answering.add_generic_rpc_handlers((_handler(alerting),))
    port = answering.add_insecure_port("127.0.0.1:0")
    answering.start()
    yield f"127.0.0.1:{port}"
    answering.stop(0).wait()
    store.close()


def _run(server: str, *arguments: str) -> Result:
    return CliRunner().invoke(loiter, ("alerts", *arguments), env={"LOITER_SERVER": server, "COLUMNS": "80"})


def _good(server: str, *arguments: str) -> str:
    result = _run(server, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_alerts_are_a_table_of_80_columns(server: str) -> None:
    """Firing ones first, then pending, then resolved; what they rest on beneath."""
    titles, *rows = lines = _good(server).splitlines()
    assert titles.split() == ["STATE", "SINCE", "SEVERITY", "RULE", "ABOUT", "HOSTS", "CAUSE"]
    assert [row.split()[0] for row in rows[:3]] == ["firing", "pending", "resolved"]
    assert " 200 leak" in rows[0]
    assert max(map(cell_len, lines)) <= 80
    assert lines[-3:] == [
        "2 rules, not evaluated yet",
        "leak: no room for 1,710 more that break it; they wait until some are over",
        "http://127.0.0.1:9: nothing pushed yet",
    ]


def test_a_wide_table_says_more(server: str) -> None:
    """With sentences and links."""
    text = _good(server, "-o", "wide")
    said = r"<script>alert(1)</script>\x1b[2J=cmd(): CLOSE_WAIT grows by 6,976 sockets an hour on web-199 and 199 more"
    assert f"{said} (leak)" in text
    assert "https://loiter.example/host?name=%3Cscript%3E" in text
    assert "\x1b" not in text


def test_alerts_can_be_had_by_their_state(server: str) -> None:
    """Of one state, or of several."""
    assert "pending" not in _good(server, "--state", "firing")
    found = json.loads(_good(server, "-o", "json", "--state", "pending", "--state", "resolved"))
    assert [one["state"] for one in found["alerts"]] == ["pending", "resolved"]
    assert _run(server, "--state", "gone").exit_code == 2


def test_json_has_all_there_is(server: str) -> None:
    """What is not known or is not there is null."""
    found = json.loads(_good(server, "-o", "json"))
    assert found["evaluated_time"] is None
    assert found["receivers"] == [{"url": "http://127.0.0.1:9", "last_success_time": None, "error": None}]
    assert [(one["name"], one["left_out"]) for one in found["rules"]] == [("leak", 1_710), ("silent", 0)]
    first, second, third = found["alerts"]
    assert (first["app"], first["hosts"], first["cause"], first["figure"]) == (HOSTILE, 200, "leak", 6_976.0)
    assert first["hostnames"] == [f"web-{number}" for number in range(199, 189, -1)]
    assert (first["active_time"], first["firing_time"]) == ("2027-01-15T07:40:00.000Z", "2027-01-15T07:50:00.000Z")
    assert (second["firing_time"], second["resolved_time"], second["cause"]) == (None, None, None)
    assert (third["app"], third["hostnames"]) == (None, [HOSTILE])
    assert third["resolved_time"] == "2027-01-15T08:00:00.000Z"


def test_csv_is_no_formula(server: str) -> None:
    """One row an alert."""
    rows = list(csv.DictReader(io.StringIO(_good(server, "-o", "csv"), newline="")))
    assert [row["state"] for row in rows] == ["firing", "pending", "resolved"]
    assert rows[1]["app"] == "'=cmd()"
    assert rows[1]["summary"] == "'=cmd(): CLOSE_WAIT grows by 120 sockets an hour on b"
    assert not any(cell.startswith("=") or "\x1b" in cell for row in rows for cell in row.values())
