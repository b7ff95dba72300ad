"""The forms of a report that need no picture: Markdown, JSON, CSV, text, and a message of Slack's.

Those with pictures are in tests/peers, where a browser and readers of pictures look at them.
"""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.delivery.slack import slack_message, texts
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.markdown import escape, markdown
from loiter_aggregator.reports.rendering.plain import plain
from loiter_aggregator.reports.rendering.render import render
from loiter_aggregator.reports.rendering.terms import terms
from support.fleet_reports import HOSTILE, HOSTILE_LINKS, PAGE, fleet_report

REPORT = fleet_report()
NASTY = (HOSTILE, HOSTILE_LINKS)


def test_the_headline_says_what_is_in_it() -> None:
    """In a few words, also where there is nothing, and where nothing is to compare with."""
    assert view.headline(REPORT) == (
        "2 new, 1 worse, 1 unchanged, 1 resolved, 1 not known; 2 will run out before the next report"
    )
    assert view.headline(pb.FleetReport()) == "nothing found"
    assert view.comparison(fleet_report(compared=False)).startswith("There is nothing to compare with")


def test_markdown_has_the_findings_by_change_then_the_worst_then_what_it_rests_on() -> None:
    """Each finding with its figure of before, since when, and a link."""
    text = markdown(REPORT)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Will run out before the next report",
        "New",
        "Worse",
        "Unchanged",
        "Resolved",
        "Not known any more",
        "Applications",
        "Processes",
        "Hosts",
        "Causes",
        "Coverage",
        "What the words mean",
    ]
    assert "(before: 70.0 %, since 2027-01-15 05:00 UTC, runs out in 8h 43m) [show](https://loiter.example/app" in text
    assert "| order-api.service |     2 |     3 |     29,616 |   +1,234 | 0.98 |" in text
    assert "5 of 6 hosts reporting" in text


def test_many_findings_are_counted() -> None:
    """The first are shown."""
    report = pb.FleetReport(findings=[pb.Finding(app=f"app-{at}", summary=f"{at}.", figure=1) for at in range(25)])
    assert "- and 5 more" in markdown(report)
    assert "  and 5 more" in plain(report)
    assert "and 5 more" in json.dumps(slack_message(report))


def test_the_words_that_a_report_uses_are_explained() -> None:
    """Who reads one for the first time knows neither the states of sockets nor the columns; only what is there is."""
    explained = dict(terms(REPORT, tables=True))
    assert {"CLOSE_WAIT", "TIME_WAIT", "File descriptors", "Ephemeral ports", "Silent", "Coverage"} <= set(explained)
    columns = {column.title for ranking in view.rankings(REPORT) for column in ranking.columns}
    known = {"APP", "HOST", "HOSTS", "PID", "STUCK"}
    assert columns - set(explained) == known, "a column that nobody explains"
    assert {cause for cause, _, _ in view.causes(REPORT)} <= set(explained)
    assert not set(explained) & {"cpu_starved", "never_accepted"}
    assert columns & set(dict(terms(REPORT, tables=False))) == {"CLOSE_WAIT"}
    assert terms(pb.FleetReport(), tables=True) == []
    for text in (plain(REPORT), markdown(REPORT), json.dumps(slack_message(REPORT))):
        for term in dict(terms(REPORT, tables=False)):
            assert term in text


def test_an_e_mail_as_text_keeps_to_its_width() -> None:
    """Of 80 columns, but for addresses."""
    assert all(len(line) < 80 for line in plain(REPORT).splitlines() if "://" not in line)


def test_what_there_is_to_know_about_a_report_is_said_in_every_form() -> None:
    """Such as that it takes the place of another one."""
    report = fleet_report()
    report.notice = "It takes the place of <another> one."
    assert "It takes the place of &lt;another&gt; one." in markdown(report)
    assert report.notice in plain(report)
    assert "It takes the place of &lt;another&gt; one." in "".join(texts(slack_message(report)["blocks"]))
    assert json.loads(render(report, "json"))["notice"] == report.notice


@pytest.mark.parametrize("name", NASTY)
def test_names_mean_nothing_in_markdown(name: str) -> None:
    """No tag, link, mention, cell or emphasis of a host's making; and nothing that a terminal acts on."""
    text = markdown(fleet_report(name))
    assert all(char == "\n" or char.isprintable() for char in text)
    assert not re.search(r"<[a-z!/]", text)
    assert "@" not in text
    # Whatever could be the text of a link is of ours, and so is where it leads.
    links = re.findall(r"(?<!\\)\[([^\]]*)(?<!\\)\]\(([^)]*)\)", text)
    assert {label for label, _ in links} == {"The fleet over this period", "show"}
    assert all(target.startswith(PAGE) for _, target in links)
    assert not re.search(r"(?<!\\):(?=//evil)", text)
    assert _cells(text) == _cells(markdown(REPORT))


def _cells(text: str) -> list[int]:
    """How many cells each row of the tables has."""
    return [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]


def test_plain_names_stay_readable_in_markdown() -> None:
    """Markdown is what a terminal shows."""
    for name in ("order-api.service", "stalled_reader", "web-1.example.net", "CLOSE_WAIT", "/usr/bin/x (deleted)"):
        assert escape(name) == name


@pytest.mark.parametrize("name", NASTY)
def test_names_are_no_formulas_in_csv(name: str) -> None:
    """Nor do they begin a row."""
    cells = list(csv.reader(io.StringIO(render(fleet_report(f"={name}"), "csv").decode(), newline="")))
    assert len(cells) == 7
    assert {len(row) for row in cells} == {12}
    for cell in (cell for row in cells for cell in row):
        assert cell.isprintable()
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell
    assert cells[1][2].startswith("'=")


def test_json_has_everything_as_it_is() -> None:
    """Names too: escaping is for whoever shows them. Unknown is null."""
    found = json.loads(render(fleet_report(HOSTILE), "json"))
    assert [one["change"] for one in found["findings"]] == [
        "new",
        "new",
        "worse",
        "unchanged",
        "resolved",
        "not_known",
    ]
    first = found["findings"][0]
    assert (first["kind"], first["app"], first["breach_seconds"]) == ("fd_eta", HOSTILE, 11_400)
    assert found["findings"][4]["figure"] is None
    assert found["history"]["series"][0]["values"][60] is None
    assert found["history"]["step_seconds"] == 720
    assert found["processes"][0]["fd_eta_seconds"] == 11_400
    assert found["hosts"][0]["labels"] == {"role": HOSTILE}
    assert b"\x1b" not in render(fleet_report(HOSTILE), "json")


@pytest.mark.parametrize("name", NASTY)
def test_names_mean_nothing_in_text(name: str) -> None:
    """Of an e-mail."""
    text = plain(fleet_report(name))
    assert all(char == "\n" or char.isprintable() for char in text)
    assert not re.search(r"^Bcc", text, re.MULTILINE)


@pytest.mark.parametrize("name", NASTY)
def test_names_mean_nothing_in_slack(name: str) -> None:
    """No mention, no link, no format of a host's making."""
    message = slack_message(fleet_report(name))
    for text in (message["text"], *texts(message["blocks"][1:])):
        assert all(char in "\n\u200b" or char.isprintable() for char in text)
        # What is in angle brackets is a link of ours.
        assert all(found.startswith(PAGE) for found in re.findall(r"<([^>]*)>?", text)), text
        assert "@here" not in text
        assert "`" not in text
        assert "http://evil" not in text
    for block in message["blocks"]:
        for element in (block.get("text"), *block.get("elements", ())):
            assert element is None or element["type"] == "plain_text" or element["verbatim"]


def test_a_message_of_slack_keeps_its_limits() -> None:
    """50 blocks, 3,000 characters in each, 150 in the heading."""
    report = pb.FleetReport(title="t" * 200, end_time=REPORT.end_time)
    for change in pb.FindingChange.values():
        report.findings.extend(
            pb.Finding(change=change, app="&" * 256, figure=1, summary="&" * 2_000, url=f"{PAGE}/{'u' * 300}")
            for _ in range(30)
        )
    message = slack_message(report)
    assert len(message["blocks"]) <= 50
    assert len(message["blocks"][0]["text"]["text"]) <= 150
    assert all(0 < len(text) <= 3_000 for text in texts(message["blocks"]))
    # No entity is cut in two.
    assert not any(re.search(r"&(?!amp;|lt;|gt;)", text) for text in texts(message["blocks"][1:]))
    assert "hosts reporting" in list(texts(message["blocks"]))[-1]
