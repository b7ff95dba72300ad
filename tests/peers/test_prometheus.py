"""A real Prometheus scrapes a running aggregator by the files in deploy/, over TLS and with a token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from support.certificates import Pki
from support.programs import BIN, Program, free_port, loiter, run, running, wait_until
from support.prometheus_files import FOLDER, parsed, queries, rules
from support.synthetic_fleet import HOSTILE, SILENT
from support.watched_fleet import MORTAL, serving, synthetic_hosts

# What the made-up hosts have the matter with them: the alert and whom it is about.
EXPECTED: Final = {
    ("LoiterCloseWaitGrowing", "order-api.service"),
    ("LoiterCloseWaitGrowing", HOSTILE.replace("\x1b", r"\x1b")),
    ("LoiterFileDescriptorsRunOut", "order-api.service"),
    ("LoiterPortsRunOut", "proxy-1"),
    ("LoiterTimeWaitOverflow", "proxy-1"),
    ("LoiterHostSilent", SILENT),
}


@dataclass(frozen=True, slots=True)
class Scraped:
    """An aggregator, what scrapes it, and the address of that."""

    aggregator: Program
    prometheus: Program
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Asks the API of Prometheus."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The one value of an expression; None where there is none."""
        return next((float(series["value"][1]) for series in self.query(expression)), None)

    def alerts(self, state: str) -> set[tuple[str, str]]:
        """The alerts in a state, with whom they are about."""
        return {
            (one["labels"]["alertname"], one["labels"].get("app") or one["labels"].get("host", ""))
            for one in self.ask("alerts")["alerts"]
            if one["state"] == state
        }


def _configure(folder: Path, target: str, ca: Path, token: Path) -> Path:
    """The files as shipped, for one aggregator, but that nothing takes minutes; and a scrape without a token."""
    shutil.copytree(FOLDER, folder)
    file = folder / "prometheus.yml"
    shutil.copy(ca, folder / "loiter/ca.pem")
    shutil.copy(token, folder / "loiter/read.token")
    (folder / "loiter/targets.yml").write_text(yaml.safe_dump([{"targets": [target], "labels": {"fleet": "test"}}]))
    settings = parsed(file)
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    stranger = {key: value for key, value in settings["scrape_configs"][0].items() if key != "authorization"}
    settings["scrape_configs"].append({**stranger, "job_name": "stranger"})
    file.write_text(yaml.safe_dump(settings))
    for name in ("alerts.rules.yml", "recording.rules.yml"):
        document = parsed(folder / "loiter" / name)
        for group in document["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "1s"
        (folder / "loiter" / name).write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def scraped(prometheus: str, promtool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """An aggregator with made-up hosts, and Prometheus, once it has figures of the fleet."""
    folder = tmp_path_factory.mktemp("prometheus")
    pki, server, http, own = Pki(folder / "pki"), *(f"127.0.0.1:{free_port()}" for _ in range(3))
    tokens = {right: folder / f"{right}.token" for right in ("read", "ingest")}
    for right, file in tokens.items():
        made = run([BIN / "loiter", "token", "add", right, "--right", right, "--tokens", folder / "tokens.json"])
        file.write_text(made.stdout)
    certificate = ("--certificate", str(pki.server.certificate), "--key", str(pki.server.key))
    file = _configure(folder / "etc", http, pki.ca, tokens["read"])
    assert run([promtool, "check", "config", file]).returncode == 0
    command = [*MORTAL, prometheus, "--config.file", file, "--storage.tsdb.path", folder / "tsdb"]
    command += ["--web.listen-address", own, "--log.level", "warn"]
    with (
        ExitStack() as stack,
        serving(folder, server, http, *certificate, "--tokens", str(folder / "tokens.json")) as aggregator,
        synthetic_hosts(folder, server, tokens["ingest"], pki.ca),
    ):
        access = ("--server", server, "--ca", str(pki.ca), "--token-file", str(tokens["read"]))
        # Before that, the figures that are scraped first would be of hosts that are all silent.
        wait_until(lambda: _reporting(access) == 5, 30, "five hosts report")
        program = stack.enter_context(running(command, folder / "prometheus.log"))
        one = Scraped(aggregator, program, f"http://{own}")
        _wait(lambda: one.value("loiter_host_close_wait_sockets{host='web-1'}"), "figures of the fleet are scraped")
        yield one


def _reporting(access: Sequence[str]) -> int:
    fleet = loiter("fleet", *access, "-o", "json")
    assert fleet.returncode == 0, fleet.stderr
    return int(json.loads(fleet.stdout)["coverage"]["hosts_reporting"])


def _wait(condition: Callable[[], Any], what: str) -> Any:
    """Asks again, also while Prometheus is not up yet."""

    def ask() -> Any:
        try:
            return condition()
        except URLError:
            return None

    return wait_until(ask, 30, what)


def test_the_aggregator_is_scraped_with_the_token_and_not_without(scraped: Scraped) -> None:
    """As the shipped file has it: over TLS, with the authority that it names."""

    def targets() -> dict[str, dict[str, Any]]:
        found = {one["labels"]["job"]: one for one in scraped.ask("targets")["activeTargets"]}
        return found if all(one["health"] != "unknown" for one in found.values()) else {}

    found = _wait(targets, "both jobs were tried")
    assert (found["loiter"]["health"], found["loiter"]["lastError"]) == ("up", "")
    assert found["loiter"]["scrapeUrl"].startswith("https://")
    assert found["stranger"]["health"] == "down"
    assert "401" in found["stranger"]["lastError"]


def test_figures_arrive_as_they_are_and_names_are_inert(scraped: Scraped) -> None:
    """What is unknown is no series, and not 0."""
    assert scraped.value("loiter_fleet_hosts{status='silent'}") == 1
    assert scraped.value("loiter_host_ports_used_ratio{host='proxy-1'}") == pytest.approx(0.86, abs=0.01)
    assert scraped.query("loiter_host_ports_used_ratio{host='db-1'}") == []
    names = {series["metric"]["app"] for series in scraped.query("loiter_app_close_wait_sockets")}
    assert HOSTILE.replace("\x1b", r"\x1b") in names
    assert all(name.isprintable() for name in names)
    assert scraped.query("loiter_build_info")[0]["metric"]["fleet"] == "test"


def test_alerts_fire_for_what_is_the_matter_and_for_nothing_else(scraped: Scraped) -> None:
    """Those about the aggregator itself stay quiet: it is well."""
    _wait(lambda: scraped.alerts("firing") >= EXPECTED, f"{EXPECTED} fire")
    assert scraped.alerts("firing") == EXPECTED


def test_recording_rules_have_values(scraped: Scraped) -> None:
    """Each of them, once there are two scrapes to take a rate of."""
    for rule in rules("recording.rules.yml"):
        _wait(partial(scraped.query, rule["record"]), rule["record"])
    assert scraped.value("instance:loiter_fleet_hosts_silent:ratio") == pytest.approx(1 / 6)
    assert _wait(lambda: scraped.value("instance:loiter_ingest_reports_stored:rate5m"), "reports are stored")


def test_every_panel_of_the_dashboard_shows_something(scraped: Scraped) -> None:
    """Each query is one that Prometheus takes, and has data."""
    for title, query in queries():
        _wait(partial(scraped.query, query), f"{title}: {query}")


def test_an_aggregator_that_goes_down_is_noticed(scraped: Scraped) -> None:
    """And its figures are not shown any more, as if they were of now. The last test, for there is no other after it."""
    assert scraped.aggregator.stop() == 0
    _wait(lambda: ("LoiterAggregatorDown", "") in scraped.alerts("firing"), "the alert fires")
    assert scraped.query("loiter_fleet_hosts") == []
