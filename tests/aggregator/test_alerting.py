"""Rules over a real store, with a clock of the test's: what is found and grouped, and what stays while nobody knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import ingest_service_pb2 as ingest_pb
from loiter.v1 import sample_pb2
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub
from loiter_aggregator.alerts import measure as measuring
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.figures import AlertFigures
from loiter_aggregator.alerts.file import AlertFile, load_alerts
from loiter_aggregator.alerts.kinds import KINDS
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.links import Links
from loiter_aggregator.output.rows import cause_name
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, open_store, put_host, record, serving, store_samples
from support.alerts import alert_file
from support.reports import HOUR, MINUTE, NOW, hello, host_id, process, report, sample
from support.streams import Agent

HOSTILE = "<script>alert(1)</script>\x1b[2J=cmd()"
TICK = 30_000


def _leaking(pid: int, tick: int, app: str, per_tick: int = 5) -> sample_pb2.ProcessSample:
    one = process(pid, 20 + per_tick * tick, app=app, name=app, fd_open=100 + per_tick * tick, fd_limit=1_000)
    one.cause, one.stuck = sample_pb2.CAUSE_LEAK, 20 + per_tick * tick
    return one


def _samples(app: str, *, until: int = NOW, per_tick: int = 5) -> Iterator[sample_pb2.Sample]:
    """Twenty minutes of an application with two processes of which one leaks, on a host that is short of ports."""
    for tick in range(41):
        taken = sample(
            until - (40 - tick) * TICK,
            20 + per_tick * tick,
            time_wait=500,
            processes=[_leaking(100, tick, app, per_tick), process(101, tick % 3, app=app, name=app)],
        )
        taken.time_wait_limits.overflows = 1_000 + (7 if tick == 40 else 0)
        taken.ports.add(source="10.0.0.1", destination="10.0.0.5:443", used=860, available=1_000)
        yield taken


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDbStore]:
    """Three hosts that leak by one application, one by a hostile one; others: well, silent, and seldom reporting."""
    store = open_store(tmp_path_factory.mktemp("alerting"))
    for number in (1, 2, 3):
        store_samples(store, f"web-{number}", _samples("order-api", per_tick=4 + number), labels={"role": "web"})
    store_samples(store, "evil", _samples(HOSTILE))
    calm = [sample(NOW - tick * TICK, tick % 2, processes=[process(5, tick % 2, app="calm")]) for tick in range(20)]
    store_samples(store, "calm", reversed(calm))
    slow = process(9, 300, app="slow")
    slow.stuck = 300
    store_samples(store, "slow", [sample(NOW, 300, processes=[slow])], labels={"role": "slow"}, interval_ms=HOUR)
    busy = list(_samples("busy"))
    busy[-1] = sample(NOW, 220)
    busy[-1].degradation = sample_pb2.DEGRADATION_COUNTS_ONLY
    store_samples(store, "busy", busy, labels={"role": "busy"})
    said = hello("gone")
    said.host.hostname = "gone"
    put_host(store, record(said), NOW - 12 * MINUTE)
    yield store
    store.close()


class Evaluated:
    """Alerting over a store, evaluated when the test says so."""

    def __init__(self, store: DuckDbStore, file: AlertFile, folder: Path, started: int = NOW - HOUR) -> None:
        """Begins at NOW, of an aggregator that started an hour ago."""
        self.clock, self.steady = FakeClock(), FakeClock(5)
        self.fleet = Fleet(store, self.clock, Counters(started=started))
        self.alerting = Alerting(
            file, self.fleet, Links("https://loiter.example"), folder, self.clock, steady_clock=self.steady
        )

    def again(self, seconds: float = 0) -> pb.ListAlertsResponse:
        """Lets time pass, evaluates, and lists the alerts."""
        self.clock.now += round(seconds * 1_000)
        self.steady.now += round(seconds * 1_000)
        asyncio.run(self.alerting.evaluate())
        return self.list()

    def list(self) -> pb.ListAlertsResponse:
        """Lists the alerts."""
        return asyncio.run(self.alerting.list_alerts(pb.ListAlertsRequest()))


@pytest.fixture(scope="module")
def evaluated(filled: DuckDbStore, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Loiter's own rules, evaluated once."""
    one = Evaluated(filled, load_alerts(None), tmp_path_factory.mktemp("evaluated"))
    one.again()
    return one


SILENT = '[[rule]]\nname = "s"\nkind = "host-silent"\nabove = "5m"\n'


def _said(answer: pb.ListAlertsResponse) -> list[tuple[str, str, str]]:
    return [
        (one.rule, pb.AlertState.Name(one.state).removeprefix("ALERT_STATE_"), one.summary) for one in answer.alerts
    ]


def _alert(answer: pb.ListAlertsResponse, rule: str) -> pb.Alert:
    return next(one for one in answer.alerts if one.rule == rule)


def test_loiters_own_rules_find_what_is_wrong_with_a_fleet(evaluated: Evaluated) -> None:
    """One alert for an application on three hosts, worst first; one for each host, of what is a host's."""
    answer = evaluated.list()
    found = {(one.rule, one.app or one.hostnames[0]) for one in answer.alerts}
    of_apps = {(rule, app) for rule in ("close-wait-growth", "fd-eta") for app in ("order-api", HOSTILE)}
    hosts = ("web-1", "web-2", "web-3", "evil")
    of_hosts = {(rule, host) for rule in ("ports", "time-wait-overflow") for host in hosts}
    assert found == of_apps | of_hosts | {("host-silent", "gone")}
    growth = next(one for one in answer.alerts if one.rule == "close-wait-growth" and one.app == "order-api")
    assert (growth.hosts, list(growth.hostnames)) == (3, ["web-3", "web-2", "web-1"])
    assert growth.figure == pytest.approx(7 * 120)
    assert cause_name(growth.cause) == "leak"
    assert growth.state == pb.ALERT_STATE_PENDING
    assert growth.summary == "order-api: CLOSE_WAIT grows by 840 sockets an hour on web-3 and 2 more (leak)"
    assert growth.url == "https://loiter.example/app?name=order-api"
    silent = _alert(answer, "host-silent")
    assert (silent.state, silent.summary) == (pb.ALERT_STATE_FIRING, "gone: no report has come for 12m")
    assert _alert(answer, "time-wait-overflow").summary.endswith(
        ": 7 TIME_WAIT sockets were destroyed for want of room"
    )
    assert _alert(answer, "ports").figure == pytest.approx(0.86)
    assert _alert(answer, "fd-eta").figure < 4 * 3_600
    assert [one.state for one in answer.alerts] == sorted(
        (one.state for one in answer.alerts), key=[pb.ALERT_STATE_FIRING, pb.ALERT_STATE_PENDING].index
    )


def test_what_a_name_says_is_shown_and_not_obeyed(evaluated: Evaluated) -> None:
    """In sentences and in links."""
    evil = next(one for one in evaluated.list().alerts if one.app == HOSTILE)
    assert evil.summary.startswith("<script>alert(1)</script>\\x1b[2J=cmd(): ")
    assert evil.url == "https://loiter.example/app?name=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%1B%5B2J%3Dcmd%28%29"


def test_rules_narrow_down_what_they_are_about(filled: DuckDbStore, tmp_path: Path) -> None:
    """By labels of hosts, and by names of applications; stuck sockets are one of the kinds."""
    stuck = '[[rule]]\nkind = "stuck"\nabove = 100\nfor = "0s"\n'
    file = alert_file(
        tmp_path,
        f'{stuck}name = "web"\nlabels = {{ role = "web" }}\n'
        f'{stuck}name = "others"\nexcept_apps = ["order-*", "slow"]\n',
    )
    answer = Evaluated(filled, file, tmp_path).again()
    assert [(one.rule, one.app) for one in answer.alerts] == [("others", HOSTILE), ("web", "order-api")]


def test_hosts_that_stop_reporting_do_not_resolve_what_they_are_part_of(filled: DuckDbStore, tmp_path: Path) -> None:
    """Until they have been silent for so long that they will not come back."""
    file = alert_file(
        tmp_path,
        '[settings]\nforget = "1h"\n'
        '[[rule]]\nname = "s"\nkind = "stuck"\nabove = 100\nfor = "0s"\nlabels = { role = "web" }\n',
    )
    evaluated = Evaluated(filled, file, tmp_path)
    assert {one.state for one in evaluated.again().alerts} == {pb.ALERT_STATE_FIRING}
    later = evaluated.again(1_800)
    assert {one.state for one in later.alerts} == {pb.ALERT_STATE_FIRING}
    assert "of 3 of 3 hosts nothing new is heard" in later.alerts[-1].summary
    for _ in range(2):
        gone = evaluated.again(1_801)
    assert {one.state for one in gone.alerts} == {pb.ALERT_STATE_RESOLVED}


def test_nothing_begins_by_figures_that_are_old(filled: DuckDbStore, tmp_path: Path) -> None:
    """Of hosts that fell silent, or whose agent leaves its processes out by now."""
    stuck = '[[rule]]\nname = "{0}"\nkind = "stuck"\nabove = 100\nfor = "0s"\nlabels = {{ role = "{0}" }}\n'
    evaluated = Evaluated(filled, alert_file(tmp_path, stuck.format("web") + stuck.format("busy")), tmp_path)
    rows = evaluated.fleet.rank_processes(pb.RankProcessesRequest(query=pb.RankingQuery(by=pb.RANK_BY_STUCK)))
    assert {"busy", "order-api"} <= {row.app for row in asyncio.run(rows).processes}, "they are in rankings still"
    assert not evaluated.again(60).alerts


def test_a_host_is_not_silent_for_longer_than_there_was_somebody_to_hear_it(
    filled: DuckDbStore, tmp_path: Path
) -> None:
    """After the aggregator was away, hosts have time to come back."""
    evaluated = Evaluated(filled, alert_file(tmp_path, SILENT), tmp_path, started=NOW)
    assert not evaluated.again(299).alerts
    assert {name for one in evaluated.again(1).alerts for name in one.hostnames} >= {"gone", "calm"}


class _Unsaved(BaseException):
    """The end of the process, before a receiver hears of anything."""


def test_what_a_receiver_heard_of_is_known_after_a_crash(filled: DuckDbStore, tmp_path: Path) -> None:
    """It is in the file before it is told."""

    def offer() -> None:
        raise _Unsaved

    first = Evaluated(filled, alert_file(tmp_path, SILENT), tmp_path)
    first.alerting._offer = offer  # type: ignore[method-assign]
    with pytest.raises(_Unsaved):
        first.again()
    second = Evaluated(filled, alert_file(tmp_path, SILENT), tmp_path)
    asyncio.run(second.alerting.recall())
    assert [one.hostnames[0] for one in second.list().alerts if one.state == pb.ALERT_STATE_FIRING] == ["gone"]


def test_a_figure_that_is_not_known_any_more_resolves_nothing_in_a_large_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is not among the rows that are looked at. Where it is gone, that is another thing."""
    monkeypatch.setattr(measuring, "_ROWS", (2,))
    store = open_store(tmp_path / "store")
    calm = [process(pid, 9, app="calm") for pid in range(1, 4)]
    for one in calm:
        one.stuck = 0
    store_samples(store, "calm", [sample(NOW + 3 * TICK, 9, processes=calm)])
    file = alert_file(tmp_path, '[[rule]]\nname = "s"\nkind = "stuck"\nabove = 100\nfor = "0s"\nkeep_for = "0s"\n')
    evaluated = Evaluated(store, file, tmp_path)

    def after(stuck: int | None, app: str = "one") -> list[tuple[int, str]]:
        evaluated.clock.now += TICK
        evaluated.steady.now += TICK
        one = process(5, 300, app=app)
        if stuck is not None:
            one.stuck = stuck
        store_samples(store, "web-1", [sample(evaluated.clock.now, 9, processes=[one])])
        return [(one.state, one.app) for one in evaluated.again().alerts]

    assert after(300) == after(None) == [(pb.ALERT_STATE_FIRING, "one")]
    assert evaluated.list().alerts[0].summary.endswith("that was the last heard of it")
    assert after(None, app="another") == [(pb.ALERT_STATE_RESOLVED, "one")], "it is not there any more"
    store.close()


def test_figures_alone_are_those_of_the_ranking(filled: DuckDbStore) -> None:
    """Of all hosts, and of some."""
    fleet = Fleet(filled, FakeClock(), Counters(started=NOW))

    async def compare() -> None:
        for kind in KINDS.values():
            if kind.by is None or kind.name in ("stuck", "ports"):  # as growth and overflows are
                continue
            query = pb.RankingQuery(by=kind.by, limit=100)
            rows: Sequence[pb.HostRank | pb.ProcessRank]
            if kind.about == "app":
                rows = (await fleet.rank_processes(pb.RankProcessesRequest(query=query))).processes
                found: Sequence[pb.HostRank | pb.ProcessRank] = await fleet.process_figures(query)
            else:
                rows = (await fleet.rank_hosts(pb.RankHostsRequest(query=query))).hosts
                found = await fleet.host_figures(query)
            wanted = [(one.hostname, one.silent, one.cause, kind.figure(one)) for one in rows]
            if kind.name == "fd-eta":
                wanted = [row for row in wanted if row[-1] is not None]
            assert wanted == [(one.hostname, one.silent, one.cause, kind.figure(one)) for one in found]
            ask = fleet.process_figures if kind.about == "app" else fleet.host_figures
            of_two = await ask(query, [host_id("web-1"), host_id("web-3")])
            assert [(one.hostname, one.silent, one.cause, kind.figure(one)) for one in of_two] == [
                row for row in wanted if row[0] in ("web-1", "web-3")
            ]

    asyncio.run(compare())


def test_a_counter_that_goes_down_again_and_again_is_a_large_figure_and_no_more(tmp_path: Path) -> None:
    """One agent may send any counts: what they add up to is more than a message holds."""
    clock = FakeClock()
    store = open_store(tmp_path / "store")

    async def tell() -> tuple[pb.RankHostsResponse, pb.ListAlertsResponse]:
        batcher = Batcher(store, clock)
        committing = asyncio.create_task(batcher.run())
        async with serving(store, batcher, clock) as address, Agent(address) as agent:
            await agent.greet(hello("evil", now=NOW))
            for tick in range(4):
                taken = sample(NOW - (4 - tick) * TICK, 3)
                taken.time_wait_limits.overflows = 2**64 - 1 - tick
                await agent.send(ingest_pb.StreamReportsRequest(report=report("evil", tick + 1, taken)))
            while (await agent.ack())[1] < 4:
                pass
            async with grpc.aio.insecure_channel(address) as channel:
                query = pb.RankingQuery(by=pb.RANK_BY_TIME_WAIT_OVERFLOWS)
                ranked = await FleetServiceStub(channel).RankHosts(pb.RankHostsRequest(query=query))
        batcher.stop()
        await committing
        evaluated = Evaluated(store, load_alerts(None), tmp_path)
        await evaluated.alerting.evaluate()
        return ranked, await evaluated.alerting.list_alerts(pb.ListAlertsRequest())

    ranked, listed = asyncio.run(tell())
    assert [one.time_wait_overflows for one in ranked.hosts] == [2**63 - 1]
    assert [(one.rule, one.hostnames[0]) for one in listed.alerts] == [("time-wait-overflow", "evil")]
    store.close()


class _Faulty(Fleet):
    """Fails at hosts, and at everything when it is told to."""

    is_broken = False

    async def host_figures(self, *_: object) -> Sequence[pb.HostRank]:
        raise ValueError("a fault of the test's")

    async def get_fleet(self, request: pb.GetFleetRequest) -> pb.GetFleetResponse:
        if self.is_broken:
            raise asyncio.InvalidStateError("another")
        return await super().get_fleet(request)


def test_a_mistake_in_one_rule_leaves_the_others_alone(
    filled: DuckDbStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback once, and counted each time."""
    clock = FakeClock()
    fleet = _Faulty(filled, clock, Counters(started=NOW - HOUR))
    alerting = Alerting(load_alerts(None), fleet, Links(), tmp_path, clock, steady_clock=FakeClock(5))
    for _ in range(2):
        asyncio.run(alerting.evaluate())
    listed = asyncio.run(alerting.list_alerts(pb.ListAlertsRequest()))
    assert {one.rule for one in listed.alerts} == {"close-wait-growth", "fd-eta", "host-silent"}
    assert caplog.text.count("Traceback") == 1
    assert "the evaluation of ports ended by a mistake: ValueError: a fault of the test's" in caplog.text
    assert alerting.figures().evaluations_failed == 4


def test_a_mistake_of_an_evaluation_does_not_end_the_next(
    filled: DuckDbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    fleet = Fleet(filled, clock, Counters(started=NOW - HOUR))
    file = alert_file(tmp_path, f'[settings]\nevery = "500ms"\n{SILENT}')
    alerting = Alerting(file, fleet, Links(), tmp_path, clock, steady_clock=FakeClock(5))
    evaluate, faults = alerting.evaluate, [ValueError("one"), ValueError("two")]
    evaluated = asyncio.Event()

    async def failing() -> None:
        if faults:
            raise faults.pop()
        await evaluate()
        evaluated.set()

    monkeypatch.setattr(alerting, "evaluate", failing)
    monkeypatch.setattr(alerting, "_pause", lambda: 0.0)

    async def run() -> None:
        running = asyncio.create_task(alerting.run())
        await evaluated.wait()
        running.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert alerting.figures().firing["s", "warning"] == 1
    assert caplog.text.count("an evaluation of the alerts ended by a mistake: ValueError") == 2


def test_a_restart_in_between_is_not_noticed(filled: DuckDbStore, tmp_path: Path) -> None:
    """What is pending goes on, what fires does not begin anew, and what the file no longer says is resolved."""
    rules = '[[rule]]\nname = "s"\nkind = "stuck"\nabove = 100\nfor = "10m"\n'
    other = '[[rule]]\nname = "now"\nkind = "stuck"\nabove = 100\nfor = "0s"\n'
    Evaluated(filled, alert_file(tmp_path, rules + other), tmp_path).again()
    second = Evaluated(filled, alert_file(tmp_path, rules), tmp_path)
    second.clock.now = NOW + 20_000
    asyncio.run(second.alerting.recall())
    assert {(one.rule, one.state) for one in second.list().alerts} == {
        ("s", pb.ALERT_STATE_PENDING),
        ("now", pb.ALERT_STATE_RESOLVED),
    }
    assert {one.active_time.seconds for one in second.list().alerts} == {NOW // 1_000}


def test_setting_the_clock_neither_fires_nor_ends_anything(tmp_path: Path) -> None:
    """Ten minutes are ten minutes, whatever the clock says in between."""
    store = open_store(tmp_path / "store")
    file = alert_file(tmp_path, '[[rule]]\nname = "s"\nkind = "stuck"\nabove = 100\nfor = "10m"\n')
    evaluated = Evaluated(store, file, tmp_path)

    def report() -> None:
        one = process(9, 300, app="slow")
        one.stuck = 300
        store_samples(store, "slow", [sample(evaluated.clock.now, 300, processes=[one])])

    report()
    evaluated.again()
    for step in (-HOUR, HOUR, 11 * MINUTE):
        evaluated.clock.now += step
        assert [one.state for one in evaluated.again().alerts] == [pb.ALERT_STATE_PENDING]
    evaluated.again(590)
    report()
    assert [one.state for one in evaluated.again(9).alerts] == [pb.ALERT_STATE_PENDING]
    assert [one.state for one in evaluated.again(1).alerts] == [pb.ALERT_STATE_FIRING]
    store.close()


def test_a_store_that_can_not_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and counted."""
    store = open_store(tmp_path / "store")
    store_samples(store, "web-1", _samples("order-api"))
    file = alert_file(tmp_path, '[[rule]]\nname = "s"\nkind = "stuck"\nabove = 100\nfor = "0s"\nkeep_for = "0s"\n')
    evaluated = Evaluated(store, file, tmp_path)
    before = evaluated.again()
    store.close()
    for _ in range(2):
        assert _said(evaluated.again(10)) == _said(before)
    assert caplog.text.count("cannot evaluate the rule s: ") == 1
    figures = evaluated.alerting.figures()
    assert (figures.evaluations, figures.evaluations_failed) == (3, 2)


def test_figures_count_alerts_by_rule_and_severity(evaluated: Evaluated, filled: DuckDbStore, tmp_path: Path) -> None:
    """Rules without any have none, which is known."""
    assert Evaluated(filled, load_alerts(None), tmp_path).alerting.figures() == AlertFigures(
        firing={(rule.name, rule.severity): 0 for rule in load_alerts(None).rules},
        pending={(rule.name, rule.severity): 0 for rule in load_alerts(None).rules},
    )
    figures = evaluated.alerting.figures()
    assert figures.firing["host-silent", "warning"] == 1
    assert figures.firing["fd-eta", "critical"] == 0
    assert figures.pending["fd-eta", "critical"] == 2
    assert figures.evaluation_seconds is not None
    assert figures.evaluated_time == NOW


def test_what_can_not_be_kept_is_said_once(
    filled: DuckDbStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Alerts go on without."""
    evaluated = Evaluated(filled, alert_file(tmp_path, SILENT), tmp_path / "nowhere")
    assert evaluated.again().alerts
    assert evaluated.again(600).alerts
    assert caplog.text.count("cannot write") == 1


def test_a_damaged_memory_is_said_and_begun_anew(
    filled: DuckDbStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "alerts.json").write_text("{")
    evaluated = Evaluated(filled, alert_file(tmp_path, SILENT), tmp_path)
    asyncio.run(evaluated.alerting.recall())
    assert "alerts begin anew" in caplog.text
    evaluated.again()
    assert json.loads((tmp_path / "alerts.json").read_text())["alerts"]


def test_only_hosts_are_ranked_by_overflows(filled: DuckDbStore) -> None:
    """The kernel counts them by host. Of silent hosts, those of late can be asked for alone."""
    fleet = Fleet(filled, FakeClock(), Counters(started=NOW))
    query = pb.RankingQuery(by=pb.RANK_BY_TIME_WAIT_OVERFLOWS)
    for question in (
        fleet.rank_processes(pb.RankProcessesRequest(query=query)),
        fleet.rank_apps(pb.RankAppsRequest(query=query)),
        fleet.rank_groups(pb.RankGroupsRequest(query=query, label="role")),
        fleet.get_host(pb.GetHostRequest(name="web-1", by=pb.RANK_BY_TIME_WAIT_OVERFLOWS)),
    ):
        with pytest.raises(InvalidRequest, match="by"):
            asyncio.run(question)
    request = pb.GetFleetRequest()
    for minutes, names in ((11, []), (13, ["gone"])):
        request.silent_within.FromSeconds(60 * minutes)
        assert [one.hostname for one in asyncio.run(fleet.get_fleet(request)).silent_hosts] == names


def test_every_kind_has_a_sentence_with_its_figure() -> None:
    for kind in KINDS.values():
        figure = kind.write(0.5)
        assert figure in kind.broken.format(figure)
        assert figure in kind.limit.format(figure)
