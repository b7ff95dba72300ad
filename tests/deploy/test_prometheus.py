"""The files for Prometheus and Grafana: valid, in agreement with what /metrics shows, every alert with a test."""

from __future__ import annotations

import asyncio
import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from loiter.limits import DEFAULT_HTTP
from loiter_aggregator.clock import system_clock
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.metrics.metrics import Metrics
from loiter_aggregator.metrics.of_aggregator import Inside
from support.aggregators import open_store
from support.programs import run
from support.prometheus_files import FOLDER, dashboard, metrics_in, parsed, queries, rules

PROMTOOL = shutil.which("promtool") or ""
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed; on Debian: package prometheus")


@pytest.fixture
def known(tmp_path: Path) -> set[str]:
    """The names of all series that /metrics can show: those of families are there though nothing is known."""
    store = open_store(tmp_path / "store")

    async def scrape() -> str:
        fleet = Fleet(store, system_clock, Counters(0))
        metrics = Metrics(fleet, Counters(0), inside=Inside(lambda: 0, lambda: 0, store.file))
        gathering = asyncio.create_task(metrics.run())
        text = ""
        async with asyncio.timeout(20):
            while "loiter_fleet_hosts" not in text:
                text = (await metrics.exposition(""))[0].decode()
        gathering.cancel()
        return text

    try:
        text = asyncio.run(scrape())
    finally:
        store.close()
    found = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    histograms = {name for name, kind in found.items() if kind == "histogram"}
    return (set(found) - histograms) | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


@needs_promtool
def test_the_configuration_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    """With the files of the token and of the authority that it names."""
    folder = tmp_path / "prometheus"
    shutil.copytree(FOLDER, folder)
    for name in ("read.token", "ca.pem"):
        (folder / "loiter" / name).write_text("x")
    done = run([PROMTOOL, "check", "config", "prometheus.yml"], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


@needs_promtool
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    """So say the unit tests beside the rules."""
    done = run([PROMTOOL, "test", "rules", "rules.test.yml"], cwd=FOLDER / "loiter")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    """An alert that never fires, or always, is worse than none."""
    cases = [
        case
        for test in parsed(FOLDER / "loiter" / "rules.test.yml")["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    alerts = {rule["alert"] for rule in rules("alerts.rules.yml")}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_rules_and_dashboard_ask_for_what_there_is(known: set[str]) -> None:
    """Every metric that is named anywhere is shown by /metrics, or recorded."""
    recorded = {rule["record"] for rule in rules("recording.rules.yml")}
    asked = [rule["expr"] for name in ("recording.rules.yml", "alerts.rules.yml") for rule in rules(name)]
    asked += [query for _, query in queries()]
    assert recorded
    assert len(asked) > 60
    for query in asked:
        assert metrics_in(query) <= known | recorded, query


def test_the_scrape_goes_where_the_aggregator_serves() -> None:
    """To the port of the web page, under the name of the job that the alerts are about."""
    (scrape,) = parsed(FOLDER / "prometheus.yml")["scrape_configs"]
    assert all(
        f'job="{scrape["job_name"]}"' in rule["expr"] for rule in rules("alerts.rules.yml") if "up{" in rule["expr"]
    )
    (targets,) = parsed(FOLDER / "loiter" / "targets.yml")
    assert targets["targets"][0].rpartition(":")[2] == DEFAULT_HTTP.rpartition(":")[2]


def test_panels_of_the_dashboard_have_places_of_their_own_and_the_data_source_that_is_chosen() -> None:
    """No two overlap, and none is wider than the page."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
