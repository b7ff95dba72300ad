"""`loiter simulate` and a real aggregator: rankings find what is said to leak, and nothing is lost on the way."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.audit import stored
from support.programs import BIN, Aggregator, Command, Program, aggregator, ask, loiter, running, wait_until

# Twenty of each kind of thing that leaks is what it takes to score the first twenty of a ranking. Without churn: a
# process that has three samples is ranked by their slope, which says nothing yet, and may so be among the twenty.
FLEET = ("--hosts", "60", "--leaking", "40%", "--churning", "0%", "--hosts-per-connection", "10")


def simulation(server: str, truth: Path, *more: str) -> Command:
    """The command."""
    return [BIN / "loiter", "simulate", *FLEET, "--server", server, "--truth", truth, "-o", "json", *more]


def precision(rows: list[dict[str, Any]], true: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> float:
    """Of the first twenty rows, the share that is true."""
    known = {key(row) for row in true}
    return sum(key(row) in known for row in rows[:20]) / 20


def check_rankings(server: str, truth: dict[str, Any]) -> None:
    """The twenty worst are all such that leak, one hour in: then the same samples are there whenever it is asked."""
    until = datetime.fromisoformat(truth["parameters"]["start_time"]) + timedelta(hours=1)
    question = ("--limit", "20", "--window", "1h", "--until", until.isoformat())
    hosts, processes, apps = (ask(server, "top", what, *question) for what in ("hosts", "processes", "apps"))
    assert precision(hosts, truth["leaking_hosts"], lambda row: row["host"]) == 1.0
    identity = lambda row: (row["host"], row["pid"], row["start_time"], row["app"])  # noqa: E731 - used here alone
    assert precision(processes, truth["leaking_processes"], identity) == 1.0
    assert precision(apps, truth["leaking_apps"], lambda row: row["app"]) == 1.0
    rates = {row["host"]: row["sockets_per_hour"] for row in truth["leaking_hosts"]}
    for row in hosts:
        assert row["close_wait_growth_per_hour"] == pytest.approx(rates[row["host"]], rel=0.15), row


def worker_of(program: Program) -> psutil.Process:
    """One of the processes that send."""
    children = psutil.Process(program.pid).children(recursive=True)
    return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))


def acknowledged(server: str) -> int:
    """How many reports an aggregator has stored since it was started."""
    done = loiter("fleet", "-o", "json", server=server)
    return int(json.loads(done.stdout)["aggregator"]["reports_stored"]) if done.returncode == 0 else 0


@pytest.mark.timeout(240)
def test_rankings_find_what_leaks_and_nothing_is_lost_whatever_is_killed(tmp_path: Path) -> None:
    """An hour of sixty hosts, with a worker and the aggregator killed meanwhile: each report is stored once."""
    truth_file = tmp_path / "truth.json"
    with aggregator(tmp_path) as one:
        command = simulation(one.server, truth_file, "--backfill", "1h", "--for", "1s")
        with running(command, tmp_path / "simulate.log") as program:
            wait_until(lambda: acknowledged(one.server) > 2_000, 60, "reports are stored")
            worker_of(program).kill()
            program.wait_for_log("another one goes on with its hosts")
            one.stop(signal.SIGKILL)
            one.start()
            status = program.process.wait(150)
            assert program.process.stdout is not None
            summary = json.loads(program.process.stdout.read())
        check_rankings(one.server, json.loads(truth_file.read_text()))
        fleet = ask(one.server, "fleet")
        labelled = ask(one.server, "top", "hosts", "--label", "simulated=true", "--limit", "100")
    assert status == 0, program.logged()
    assert (summary["rejected"], summary["unacknowledged"]) == (0, 0)
    assert summary["resent"] > 0
    assert summary["reconnects"] > 0
    assert fleet["losing_hosts"] == []
    assert len(labelled) == 60
    check_store(one, summary["acknowledged"])


def check_store(one: Aggregator, acknowledged: int) -> None:
    """Every report is there, and none is twice."""
    found = stored(one.folder / "store" / "loiter.duckdb").values()
    sequences = [epoch for host in found for epoch in host.epochs.values()]
    assert all(epoch == list(range(1, len(epoch) + 1)) for epoch in sequences)
    assert sum(map(len, sequences)) == acknowledged
    assert not any(host.lost for host in found)


@pytest.mark.timeout(120)
def test_it_reports_live_and_ends_by_a_signal(tmp_path: Path) -> None:
    """Each second, until SIGINT; started again from the same time, it goes on where it was."""
    with aggregator(tmp_path) as one:
        live = simulation(one.server, tmp_path / "truth.json", "--interval", "1s")
        with running(live, tmp_path / "simulate.log") as program:
            wait_until(lambda: acknowledged(one.server) > 150, 60, "reports are stored")
            program.process.send_signal(signal.SIGINT)
            assert program.process.wait(60) == 0, program.logged()
            assert program.process.stdout is not None
            summary = json.loads(program.process.stdout.read())
        start = json.loads((tmp_path / "truth.json").read_text())["parameters"]["start_time"]
        again = simulation(one.server, tmp_path / "truth.json", "--interval", "1s", "--start", start, "--for", "1s")
        with running(again, tmp_path / "again.log") as program:
            assert program.process.wait(60) == 0, program.logged()
            assert program.process.stdout is not None
            second = json.loads(program.process.stdout.read())
    assert summary["sent"] == summary["acknowledged"] > 150
    assert summary["ack_seconds"]["p50"] is not None
    assert summary["cpu_microseconds_per_report"] > 0
    assert second["acknowledged"] > summary["acknowledged"]
    check_store(one, second["acknowledged"])
