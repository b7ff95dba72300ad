"""Reports of a running aggregator, as a mail server, web servers, a folder, a browser and a terminal get them."""

from __future__ import annotations

import asyncio
import base64
import csv
import email
import io
import json
import re
import signal
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import ConsoleMessage, Request, sync_playwright
from standardwebhooks import Webhook

from loiter_aggregator.reports.due import Plan
from loiter_aggregator.reports.state import ReportState
from support.certificates import Pki
from support.faketime import FakeClock, library
from support.programs import BIN, Command, Program, free_port, loiter, run, running, wait_until
from support.synthetic_fleet import HOSTILE, SILENT, write_past
from support.watched_fleet import WatchedFleet
from support.webhooks import Receiver, receiver

SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
# A report is due so soon after an aggregator is started; and a clock is set back to so long before.
_AHEAD_SECONDS: Final = 6
_BACK_SECONDS: Final = 7


class _Mailbox:
    """A mail server's end, and what came. It says that it has taken an e-mail so many seconds after it has."""

    def __init__(self, late_seconds: float = 0.0) -> None:
        self.came: list[tuple[Envelope, bool]] = []
        self.late_seconds = late_seconds

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        del server
        self.came.append((envelope, session.ssl is not None))
        await asyncio.sleep(self.late_seconds)
        return "250 taken"


def _lets_in(server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth: Any) -> AuthResult:
    del server, session, envelope, mechanism
    assert isinstance(auth, LoginPassword)
    return AuthResult(success=(auth.login, auth.password) == (b"loiter", b"hunter2"), handled=False)


@contextmanager
def _mail_server(pki: Pki, *, implicit_tls: bool = False) -> Iterator[tuple[int, _Mailbox]]:
    """A server that takes no e-mail without a password after STARTTLS, or none that is not encrypted from the start."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.server.certificate, pki.server.key)
    mailbox = _Mailbox()
    starttls = {"authenticator": _lets_in, "auth_required": True, "tls_context": context, "require_starttls": True}
    options: dict[str, Any] = {"ssl_context": context} if implicit_tls else starttls
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller.port, mailbox
    finally:
        controller.stop()


@contextmanager
def _starting(folder: Path, server: str, text: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Runs an aggregator that builds what is due at once, though no agent has reported again: there is none."""
    (folder / "reports.toml").write_text(text)
    (folder / "aggregator.toml").write_text(
        f'[reports]\nfile = "{folder}/reports.toml"\nsettle = "0s"\n[web]\nurl = "https://loiter.example"\n'
    )
    command: Command = [BIN / "loiter", "serve", "--config", folder / "aggregator.toml", "--listen", server]
    with running([*command, "--data-dir", folder / "store"], folder / "aggregator.log", environment) as program:
        yield program


@contextmanager
def _aggregator(
    folder: Path, server: str, text: str, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Runs one from when it listens."""
    log = folder / "aggregator.log"
    before = log.read_text().count("store in") if log.exists() else 0
    with _starting(folder, server, text, environment) as program:
        wait_until(
            lambda: log.read_text().count("store in") > before or program.process.poll() is not None, 60, f"{log}"
        )
        assert program.process.poll() is None, log.read_text()
        yield program


def _due_while_it_was_down(folder: Path, name: str) -> str:
    """The cron expression, once a day, of a report that the aggregator of a folder has missed by a minute or so."""
    now = datetime.now(UTC)
    due = now - timedelta(minutes=1)
    cron = f"{due.minute} {due.hour} * * *"
    (folder / "store").mkdir(exist_ok=True)
    with closing(ReportState(folder / "store")) as state:
        looked = round((now - timedelta(hours=1)).timestamp() * 1_000)
        state.note_due(name, f"{cron} UTC", looked, lambda _looked: Plan(None, ()))
    return cron


def _runs(server: str) -> list[dict[str, Any]]:
    done = loiter("report", "--list", "--format", "json", server=server)
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs


@dataclass(frozen=True, slots=True)
class _Sent:
    """What one due report came to, everywhere."""

    folder: Path
    mails: list[tuple[Envelope, bool]]
    tickets: Receiver
    chat: Receiver
    runs: list[dict[str, Any]]
    listed: str
    log: str
    shown: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Sent]:
    """A report that was due once, sent to a folder, by e-mail, to a webhook that fails twice, and to one like Slack."""
    folder = tmp_path_factory.mktemp("reports")
    pki = Pki(folder / "pki")
    (folder / "password").write_text("hunter2\n")
    (folder / "secret").write_text(SECRET)
    server = f"127.0.0.1:{free_port()}"
    busy = (503, {"retry-after": "1"})
    again = (429, {"retry-after": "1"})
    with _mail_server(pki) as (port, mailbox), receiver([busy, again]) as tickets, receiver() as chat:
        (folder / "url").write_text(f"{chat.url}/services/T0/B0/s3cret")
        text = f"""
[[report]]
name = "daily"
cron = "{_due_while_it_was_down(folder, "daily")}"
period = "1h"
title = "Fleet, hourly"
formats = ["html", "md", "json", "csv"]
folder = "{folder}/out"
mail_to = ["ops@example.net"]
webhooks = ["tickets", "chat"]
[smtp]
host = "localhost"
port = {port}
from = "loiter@example.net"
user = "loiter"
password_file = "{folder}/password"
ca = "{pki.ca}"
[[webhook]]
name = "tickets"
url = "{tickets.url}/in"
secret_file = "{folder}/secret"
[[webhook]]
name = "chat"
kind = "slack"
url_file = "{folder}/url"
"""
        write_past(folder / "store")
        with _aggregator(folder, server, text) as program:
            runs = wait_until(lambda: _delivered(server), 90, f"all is delivered; {program.log}")
            listed = loiter("report", "--list", server=server).stdout
            shown = loiter("report", "--schedule", "daily", server=server)
            yield _Sent(folder, mailbox.came, tickets, chat, runs, listed, program.logged(), shown)


def _delivered(server: str) -> list[dict[str, Any]]:
    """The runs, once the first of them has arrived everywhere."""
    runs = _runs(server)
    arrived = runs and runs[-1]["deliveries"] and all(one["state"] == "delivered" for one in runs[-1]["deliveries"])
    return runs if arrived else []


def _mail(sent: _Sent) -> EmailMessage:
    return _read(sent.mails[0][0])


def _read(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    read = email.message_from_bytes(envelope.content, policy=default)
    assert isinstance(read, EmailMessage)
    return read


def test_an_e_mail_arrives_once_encrypted_with_pictures_that_decode(sent: _Sent) -> None:
    """Text, HTML, pictures within it, and what is attached."""
    envelope, encrypted = sent.mails[0]
    assert encrypted
    assert envelope.rcpt_tos == ["ops@example.net"]
    assert len(sent.mails) == 1
    read = _mail(sent)
    assert read["Subject"].startswith("Fleet, hourly: ")
    parts = {part.get_content_type(): part for part in read.walk()}
    assert {"text/plain", "text/html", "image/png", "text/markdown", "application/json", "text/csv"} <= set(parts)
    pictures = {
        part["Content-ID"][1:-1]: part.get_content() for part in read.walk() if part.get_content_type() == "image/png"
    }
    html = next(part.get_content() for part in read.walk() if part.get_content_type() == "text/html")
    assert pictures
    assert set(re.findall(r'src="cid:([^"]+)"', html)) == set(pictures)
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width >= 600
            colours = image.convert("RGB").getcolors(1 << 20)
            assert colours is not None
            assert len(colours) > 5  # something is drawn


def test_a_hostile_name_is_inert_everywhere(sent: _Sent) -> None:
    """In the page, the e-mail, Markdown, CSV, Slack, lists and the log."""
    stem = next(sent.folder.glob("out/*.html")).stem
    page, md, table = (Path(sent.folder, "out", f"{stem}.{form}").read_text() for form in ("html", "md", "csv"))
    html = next(part.get_content() for part in _mail(sent).walk() if part.get_content_type() == "text/html")
    for text in (page, html, md):
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)" in text
        assert "\x1b" not in text
    cells = [cell for row in csv.reader(io.StringIO(table)) for cell in row]
    assert any("<script>" in cell for cell in cells)
    assert not any(cell.startswith(("=", "+", "@", "-")) or "\x1b" in cell for cell in cells)
    message = sent.chat.came[0].body.decode()
    assert "<script" not in message
    assert "&lt;script&gt;" in message
    assert "\x1b" not in sent.listed + sent.log + sent.shown.stdout
    assert any(one["app"] == HOSTILE for one in json.loads(sent.tickets.came[0].body)["data"]["findings"])


def test_a_webhook_that_fails_twice_gets_the_same_message_signed_each_time(sent: _Sent) -> None:
    """Verified by the reference implementation."""
    first, second, third = sent.tickets.came[:3]
    assert len({one.headers["webhook-id"] for one in (first, second, third)}) == 1
    assert first.body == second.body == third.body
    for one in (first, second, third):
        event = Webhook(SECRET).verify(one.body.decode(), dict(one.headers))
        assert event["type"] == "loiter.report"
    (tickets,) = (one for one in sent.runs[-1]["deliveries"] if one["target"] == "webhook tickets")
    assert (tickets["attempts"], tickets["error"]) == (3, None)


def test_a_message_for_slack_is_of_its_form(sent: _Sent) -> None:
    """Blocks, and a text for receivers that know none."""
    (posted, *_) = sent.chat.came
    assert posted.path == "/services/T0/B0/s3cret"
    message = json.loads(posted.body)
    assert message["text"].startswith("Fleet, hourly: ")
    assert message["blocks"][0]["type"] == "header"
    assert len(message["blocks"]) <= 50


def test_each_delivery_is_recorded_and_listed_without_secrets(sent: _Sent) -> None:
    """Where it went, how often it was tried, and what is due next."""
    assert {one["target"] for one in sent.runs[-1]["deliveries"]} == {
        f"folder {sent.folder}/out",
        "mail ops@example.net",
        "webhook tickets",
        "webhook chat",
    }
    assert "daily" in sent.listed
    for secret in ("s3cret", "hunter2", SECRET[6:]):
        assert secret not in sent.listed + sent.log + json.dumps(sent.runs)
        for file in sent.folder.glob("store/reports.sqlite3*"):
            assert secret.encode() not in file.read_bytes()


def test_the_page_needs_nothing_from_elsewhere(sent: _Sent, chromium: str, tmp_path: Path) -> None:
    """A browser shows it, charts and all, on a phone without scrolling sideways, and asks nobody for anything."""

    page_file = next(sent.folder.glob("out/*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 800})
            asked: list[str] = []
            said: list[str] = []
            page.on("request", partial(_note_url, asked))
            page.on("console", partial(_note_text, said))
            page.goto(page_file.as_uri())
            assert asked == [page_file.as_uri()]
            assert said == []
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.locator("figure svg").count() >= 2
            assert page.evaluate(_DUPLICATE_IDS) == []
            page.screenshot(path=str(tmp_path / f"{scheme}.png"), full_page=True)
            # On paper (A4 with the browser's margins) nothing can be scrolled to.
            page.emulate_media(media="print", color_scheme=scheme)
            page.set_viewport_size({"width": 718, "height": 1_000})
            assert page.evaluate(_CUT_OFF) == []
        browser.close()


def _note_url(asked: list[str], request: Request) -> None:
    asked.append(request.url)


def _note_text(said: list[str], message: ConsoleMessage) -> None:
    said.append(message.text)


_CUT_OFF: Final = """() => [...document.querySelectorAll("table, svg, dl")]
  .map(one => one.getBoundingClientRect().right - one.parentElement.getBoundingClientRect().right)
  .filter(over => over > 0.5)"""
_DUPLICATE_IDS: Final = """() => {
  const ids = [...document.querySelectorAll("[id]")].map(one => one.id);
  return ids.filter((id, at) => ids.indexOf(id) !== at);
}"""


def test_the_page_has_no_serious_fault_for_people_who_can_not_see_it(sent: _Sent, chromium: str) -> None:
    """By axe-core, in the light and in the dark."""

    page_file = next(sent.folder.glob("out/*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            # Its scripts are what the page's own policy forbids.
            page = browser.new_context(bypass_csp=True, color_scheme=scheme).new_page()
            page.goto(page_file.as_uri())
            found = Axe().run(page).response["violations"]
            assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        browser.close()


def test_an_e_mail_by_tls_from_the_start_arrives_and_a_server_of_another_authority_is_refused(tmp_path: Path) -> None:
    """Its certificate is checked."""
    from loiter_aggregator.reports.delivery.failure import DeliveryError
    from loiter_aggregator.reports.delivery.mail import deliver_by_mail
    from loiter_aggregator.reports.delivery.outgoing import Outgoing
    from loiter_aggregator.reports.file import Smtp
    from support.fleet_reports import fleet_report

    pki, other = Pki(tmp_path / "pki"), Pki(tmp_path / "other", "other")
    (tmp_path / "password").write_text("hunter2")
    (tmp_path / "wrong").write_text("hunter3")
    outgoing = Outgoing(fleet_report(), {"mail": b"<p>"}, "daily", 0, "id")
    by_starttls = Smtp("localhost", "loiter@example.net", user="loiter", password_file=tmp_path / "password")
    by_tls = Smtp("localhost", "loiter@example.net", security="tls")
    for smtp in (by_starttls, by_tls):
        with _mail_server(pki, implicit_tls=smtp is by_tls) as (port, mailbox):
            deliver_by_mail(outgoing, replace(smtp, port=port, ca=pki.ca), "ops@example.net", ())
            assert len(mailbox.came) == 1
            with pytest.raises(DeliveryError, match="can not be trusted"):
                deliver_by_mail(outgoing, replace(smtp, port=port, ca=other.ca), "ops@example.net", ())
            if smtp is by_starttls:
                wrong = replace(smtp, port=port, ca=pki.ca, password_file=tmp_path / "wrong")
                with pytest.raises(DeliveryError, match="refuses the login of loiter") as caught:
                    deliver_by_mail(outgoing, wrong, "ops@example.net", ())
                assert "hunter" not in str(caught.value)
            assert len(mailbox.came) == 1


def _hook(url: str, cron: str) -> str:
    return f"""
[[report]]
name = "r"
cron = "{cron}"
period = "1h"
webhooks = ["hook"]
[[webhook]]
name = "hook"
url = "{url}"
"""


def test_kills_while_a_report_is_built_and_while_it_is_sent_neither_lose_nor_double_it(tmp_path: Path) -> None:
    """It is one run; the other ends get the message that they may have taken again, under the same id."""
    server = f"127.0.0.1:{free_port()}"
    write_past(tmp_path / "store")
    cron = _due_while_it_was_down(tmp_path, "r")
    with receiver(hangs=True) as hook, _plain_mail_server(late_seconds=60) as (port, mailbox):
        to_all = 'mail_to = ["ops@example.net"]\n[[webhook]]'
        text = _hook(hook.url, cron).replace("[[webhook]]", to_all) + _smtp(port)
        with _starting(tmp_path, server, text) as program:
            _wait_until_recorded(tmp_path)
            program.stop(signal.SIGKILL)
        assert _states(tmp_path) == [("due", None)], "it was killed too late: the report had been built"
        assert not hook.came
        with _starting(tmp_path, server, text) as program:
            wait_until(lambda: hook.came and mailbox.came, 90, f"the report is on its way; {program.log}")
            program.stop(signal.SIGKILL)
        assert _states(tmp_path) == [("built", "sending"), ("built", "sending")]
        hook.hung.clear()
        mailbox.late_seconds = 0
        with _aggregator(tmp_path, server, text):
            (run,) = wait_until(lambda: _delivered(server), 30, "the report has arrived")
    first, second = hook.came
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert [(one["state"], one["attempts"]) for one in run["deliveries"]] == [("delivered", 2), ("delivered", 2)]
    mails = [_read(envelope) for envelope, _ in mailbox.came]
    assert len(mails) == 2
    assert mails[0]["Message-ID"] == mails[1]["Message-ID"] is not None


@contextmanager
def _plain_mail_server(late_seconds: float) -> Iterator[tuple[int, _Mailbox]]:
    """A server that takes an e-mail from anybody, and says so as late as that."""
    mailbox = _Mailbox(late_seconds)
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port, mailbox
    finally:
        controller.stop()


def _smtp(port: int) -> str:
    return f"""
[smtp]
host = "127.0.0.1"
port = {port}
security = "none"
from = "loiter@example.net"
"""


def _wait_until_recorded(folder: Path) -> None:
    """Waits until a report that is due is recorded: then it is built at once."""
    deadline = time.monotonic() + 60
    while not _states(folder):
        assert time.monotonic() < deadline, "no report is recorded"
        time.sleep(0.002)  # building takes longer than that, but not by much


def _states(folder: Path) -> list[tuple[str, str | None]]:
    """How far the runs are, and their deliveries."""
    with closing(sqlite3.connect(folder / "store/reports.sqlite3")) as database:
        return database.execute(
            "SELECT run.state, delivery.state FROM run LEFT JOIN delivery ON delivery.run = run.id"
        ).fetchall()


def test_an_e_mail_that_is_being_taken_as_the_aggregator_stops_is_not_sent_again(tmp_path: Path) -> None:
    """The answer of a server that takes its time is waited for, and recorded: SIGTERM, and a new start."""
    server = f"127.0.0.1:{free_port()}"
    text = f"""
[[report]]
name = "r"
cron = "{_due_while_it_was_down(tmp_path, "r")}"
period = "1h"
mail_to = ["ops@example.net"]
"""
    with _plain_mail_server(late_seconds=3) as (port, mailbox):
        text += _smtp(port)
        with _starting(tmp_path, server, text) as program:
            wait_until(lambda: mailbox.came, 90, f"the e-mail is on its way; {program.log}")
            assert _states(tmp_path) == [("built", "sending")]
            assert program.stop(signal.SIGTERM) == 0
        assert _states(tmp_path) == [("built", "delivered")]
        with _aggregator(tmp_path, server, text):
            (run,) = _runs(server)
    assert [(one["state"], one["attempts"]) for one in run["deliveries"]] == [("delivered", 1)]
    assert len(mailbox.came) == 1


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed; on Debian: apt-get install faketime")
def test_a_clock_that_is_set_neither_loses_nor_doubles_a_report(tmp_path: Path) -> None:
    """Forward by hours, and back again, while the aggregator runs: of what was due then, the latest is sent once."""
    server = f"127.0.0.1:{free_port()}"
    hour = (time.time() // 3_600 + 1) * 3_600
    clock = FakeClock(tmp_path, (hour - _AHEAD_SECONDS - time.time()) / 3_600)
    with receiver() as hook, _aggregator(tmp_path, server, _hook(hook.url, "0 * * * *"), clock.environment):
        wait_until(lambda: _delivered(server), 60, "the report of the hour has arrived")
        clock.set((hour + 3.5 * 3_600 - time.time()) / 3_600)  # by a time server, say: three more hours have begun
        runs = wait_until(lambda: _all_done(_runs(server), 4), 40, "the latest of them has arrived")
        back = hour - _BACK_SECONDS - time.time()
        clock.set(back / 3_600)  # and it was wrong: the first hour is still to begin
        wait_until(lambda: _looked_until(tmp_path) < hour, 20, "that is noticed before")
        wait_until(lambda: time.time() + back > hour + 2, 20, "it has begun once more")
        # Of those that were passed over nothing has been missed any more: they are yet to come.
        early, first = _runs(server)
        assert early == {**runs[0], "notice": "built before its time, by a clock that was ahead"}
        assert first == runs[3]
    assert [(one["due_time"][14:19], bool(one["error"])) for one in runs] == [
        ("00:00", False),
        ("00:00", True),
        ("00:00", True),
        ("00:00", False),
    ]
    assert len(hook.came) == 2
    with closing(sqlite3.connect(tmp_path / "store/reports.sqlite3")) as database:
        assert database.execute("SELECT count(*), count(DISTINCT due) FROM run").fetchone() == (4, 4)


def _all_done(runs: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The runs, once there are so many and each has arrived or will not."""
    done = (one["error"] or (one["deliveries"] and one["deliveries"][0]["state"] == "delivered") for one in runs)
    return runs if len(runs) == number and all(done) else []


def _looked_until(folder: Path) -> float:
    """Until when an aggregator has looked what was due, by its own clock."""
    with closing(sqlite3.connect(folder / "store/reports.sqlite3")) as database:
        (looked,) = database.execute("SELECT looked FROM schedule").fetchone()
    return float(looked) / 1_000


def test_a_report_is_built_now_in_every_form(fleet: WatchedFleet, tmp_path: Path) -> None:
    """On standard output, in a file by its ending, and as a page to look at."""
    shown = loiter("report", "--period", "10m", server=fleet.server)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("# Fleet report")
    assert SILENT in shown.stdout
    for form in ("html", "md", "json", "csv"):
        done = loiter("report", "--period", "10m", "--output", str(tmp_path / f"r.{form}"), server=fleet.server)
        assert (done.returncode, done.stdout) == (0, "")
    found = json.loads((tmp_path / "r.json").read_text())
    kinds = {(one["kind"], one["app"]) for one in found["findings"]}
    assert ("close_wait_growth", "forgets_to_close.py") in kinds
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    opened = run(
        [BIN / "loiter", "report", "--preview", "--server", fleet.server], {"TMPDIR": str(tmp_path), "DISPLAY": ""}
    )
    assert opened.stdout.startswith("there is no display to open it on: see ")
    assert Path(opened.stdout.strip().rpartition(" ")[2]).read_text().startswith("<!doctype html>")
    assert "no report is scheduled" in loiter("report", "--list", server=fleet.server).stdout
