"""`loiter report`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.commands import loiter
from loiter_aggregator.output.reports import schedules_page
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, serving_in_background, store_samples
from support.reports import MINUTE, NOW, sample, stamp


@pytest.fixture
def server(store: DuckDbStore, clock: FakeClock) -> Iterator[str]:
    """An aggregator that knows one host."""
    store_samples(store, "web-1", [sample(NOW, 3)])
    with serving_in_background(store, clock) as address:
        yield address


def _loiter(*arguments: str) -> Result:
    return CliRunner().invoke(loiter, ["report", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--list", "--preview"], "--list goes with --format json alone"),
        (["--list", "--format", "csv"], "--list goes with --format json alone"),
        (["--schedule", "daily", "--period", "1d"], "--schedule has a period and labels of its own"),
        (["--schedule", "daily", "--label", "role=web"], "--schedule has a period and labels of its own"),
        (["--preview", "--format", "md"], "--preview is HTML"),
        (["--preview", "--output", "x.html"], "--preview is HTML"),
        (["--period", "soon"], "is not a duration"),
        (["--format", "pdf"], "'pdf' is not one of"),
        (["--output", "r.pdf"], ".pdf is no form of a report; --output takes .html, .htm, .md, .markdown, .txt, .json"),
    ],
)
def test_what_does_not_go_together_is_said_before_anybody_is_asked(arguments: list[str], said: str) -> None:
    """With exit status 2."""
    done = _loiter(*arguments, "--server", "127.0.0.1:1")
    assert done.exit_code == 2
    assert said in done.output


def test_the_form_is_that_of_the_file_unless_it_is_said(server: str, tmp_path: Path) -> None:
    """Markdown on standard output; what was written where is said on standard error."""
    assert _loiter("--server", server).stdout.startswith("# Fleet report\n")
    assert json.loads(_loiter("--server", server, "--format", "json").stdout)["coverage"]["hosts"] == 1
    for name, first in (("r.csv", b"kind,change"), ("r.txt", b"# Fleet"), ("report", b"# Fleet")):
        done = _loiter("--server", server, "--output", str(tmp_path / name))
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"written to {tmp_path / name}\n")
        assert (tmp_path / name).read_bytes().startswith(first)


def test_a_form_that_is_said_goes_into_a_file_of_any_name(server: str, tmp_path: Path) -> None:
    """Whatever its ending."""
    done = _loiter("--server", server, "--format", "json", "--output", str(tmp_path / "r.pdf"))
    assert (done.exit_code, json.loads((tmp_path / "r.pdf").read_text())["notice"]) == (0, None)


def test_what_goes_wrong_is_said(server: str, tmp_path: Path) -> None:
    """A file that can not be written, a schedule that is not there; with exit status 1."""
    nowhere = _loiter("--server", server, "--output", str(tmp_path / "missing" / "r.md"))
    assert (nowhere.exit_code, nowhere.stderr) == (
        1,
        f"Error: cannot write {tmp_path}/missing/r.md: No such file or directory\n",
    )
    too_long = _loiter("--server", server, "--output", str(tmp_path / f"{'r' * 300}.md"))
    assert too_long.exit_code == 1
    assert too_long.stderr.endswith(".md: File name too long\n")
    unknown = _loiter("--server", server, "--schedule", "daily")
    assert unknown.exit_code == 1
    assert "no report is called 'daily'; none is scheduled (reports.file of the aggregator)" in unknown.stderr


def test_the_list_says_where_nothing_is_scheduled(server: str) -> None:
    """What to do about it; for programs it is empty."""
    assert _loiter("--server", server, "--list").stdout.startswith("no report is scheduled; the aggregator's setting")
    assert json.loads(_loiter("--server", server, "--list", "--format", "json").stdout) == {"schedules": [], "runs": []}


def test_the_list_says_in_80_columns_what_failed_where_and_when_it_is_tried_again() -> None:
    """However long the names: they go on in the next line, and are not cut."""
    folder, mail, webhook = "folder /srv/reports/fleet", "mail oncall@example.net", "webhook channel-of-the-platform"
    run = pb.ReportRun(schedule="daily", due_time=stamp(NOW), built_time=stamp(NOW))
    run.deliveries.add(target=folder, state=pb.DELIVERY_STATE_DELIVERED, attempts=1)
    run.deliveries.add(target=webhook, state=pb.DELIVERY_STATE_FAILED, attempts=1, error="answered 403: no channel")
    run.deliveries.add(
        target=mail,
        state=pb.DELIVERY_STATE_WAITING,
        attempts=2,
        error="the mail server says: 451 greylisted",
        next_attempt_time=stamp(NOW + 5 * MINUTE),
    )
    schedule = pb.ReportSchedule(
        name="daily", cron="0 8 * * mon-fri", time_zone="America/New_York", targets=[folder, mail, webhook]
    )
    out = StringIO()
    Console(width=80, file=out).print(schedules_page(pb.ListReportsResponse(schedules=[schedule], runs=[run])))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "…" not in out.getvalue()
    assert f"daily 2027-01-15 08:00 delivered 1 {folder}" in lines
    assert f"daily 2027-01-15 08:00 failed 1 {webhook}" in lines
    assert f"daily 0 8 * * mon-fri America/New_York - {folder}" in lines
    assert mail in lines
    said = " ".join(lines)
    assert f"daily 2027-01-15 08:00, {webhook}: answered 403: no channel" in said
    assert f"daily 2027-01-15 08:00, {mail}: the mail server says: 451 greylisted; again 2027-01-15 08:05" in said
