"""What goes to an Alertmanager, and what becomes of it where one does not take it; the other end is a web server."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.alertmanager import Alertmanager, to_post
from loiter_aggregator.alerts.settings import AlertmanagerSettings, EvaluationSettings
from loiter_aggregator.alerts.state import Alert, Member, Subject, retire, shifted
from loiter_aggregator.links import Links
from support.aggregators import FakeClock
from support.certificates import Pki
from support.reports import MINUTE, NOW

HOSTILE = "<script>alert(1)</script>\x1b[2J=cmd()"
FIRING = Alert(
    "leak",
    "close-wait-growth",
    "critical",
    Subject(app=HOSTILE),
    NOW - 20 * MINUTE,
    NOW - 10 * MINUTE,
    members={f"{number:032x}": Member(f"web-{number}", 100.0 + number, sample_pb2.CAUSE_LEAK) for number in range(12)},
    add_labels=(("team", "payments"),),
)


def test_an_alert_is_named_by_what_never_changes() -> None:
    """What does, the cause and the hosts, is an annotation; it ends by itself unless it is pushed again."""
    assert to_post(FIRING, Links("https://loiter.example"), NOW, 5 * MINUTE) == {
        "labels": {
            "team": "payments",
            "alertname": "leak",
            "severity": "critical",
            "app": "<script>alert(1)</script>\\x1b[2J=cmd()",
        },
        "annotations": {
            "summary": "<script>alert(1)</script>\\x1b[2J=cmd(): CLOSE_WAIT grows by 111 sockets an hour on web-11 "
            "and 11 more (leak)",
            "hosts": ", ".join(f"web-{number}" for number in range(11, 1, -1)) + " and 2 more",
            "cause": "leak",
            "link": "https://loiter.example/app?name=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%1B%5B2J%3Dcmd%28%29",
        },
        "startsAt": "2027-01-15T07:50:00.000+00:00",
        "endsAt": "2027-01-15T08:05:00.000+00:00",
        "generatorURL": "https://loiter.example/app?name=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%1B%5B2J%3Dcmd%28%29",
    }


def test_one_that_is_resolved_says_since_when() -> None:
    """Under the same name. Where nobody knows where the page is, there is no link."""
    resolved = replace(FIRING, resolved_at=NOW - MINUTE, members={})
    posted = to_post(resolved, Links(), NOW, 5 * MINUTE)
    assert posted["labels"] == to_post(FIRING, Links(), NOW, 0)["labels"]
    assert (posted["startsAt"], posted["endsAt"]) == ("2027-01-15T07:50:00.000+00:00", "2027-01-15T07:59:00.000+00:00")
    assert "generatorURL" not in posted
    assert "link" not in posted["annotations"]


@dataclass
class OtherEnd:
    """A web server that answers each push the same, and keeps what came. It may refuse what has a label."""

    url: str = ""
    status: int = 200
    answer: bytes = b""
    refuses: str = ""
    date: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)
    pushed: list[list[Any]] = field(default_factory=list)


@contextmanager
def _answering(end: OtherEnd, tls: ssl.SSLContext | None = None) -> Iterator[OtherEnd]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            end.paths.append(self.path)
            end.credentials.append(self.headers["Authorization"])
            end.pushed.append(json.loads(body))
            refuses = end.refuses and any(end.refuses in one["labels"].values() for one in end.pushed[-1])
            self.send_response_only(400 if refuses else end.status)
            if end.date:
                self.send_header("Date", end.date)
            for name, value in end.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # nobody reads all of a long answer
                self.wfile.write(end.answer)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    end.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield end
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _push(settings: AlertmanagerSettings, *alerts: Alert) -> Alertmanager:
    """Pushes once."""
    receiver = Alertmanager(settings, EvaluationSettings(), Links(), FakeClock(), steady_clock=FakeClock(5))

    async def push() -> None:
        receiver.offer(alerts)
        async with receiver.connection() as client:
            await receiver.push_due(client)

    asyncio.run(push())
    return receiver


def test_alerts_are_pushed_in_bounded_numbers() -> None:
    """To the path of the API, beneath the address."""
    alerts = [replace(FIRING, subject=Subject(host=f"web-{number}")) for number in range(130)]
    with _answering(OtherEnd()) as end:
        receiver = _push(AlertmanagerSettings(url=f"{end.url}/am"), *alerts)
        assert [len(one) for one in end.pushed] == [64, 64, 2]
        assert set(end.paths) == {"/am/api/v2/alerts"}
        assert end.credentials == [None] * 3
        assert (receiver.error, receiver.last_success, receiver.failures) == ("", NOW, 0)


def test_a_token_or_a_password_is_shown_as_the_file_has_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    with _answering(OtherEnd()) as end:
        _push(AlertmanagerSettings(url=end.url, token_file=secret), FIRING)
        _push(AlertmanagerSettings(url=end.url, user="loiter", password_file=secret), FIRING)
    basic = base64.b64encode(b"loiter:s3cret").decode()
    assert end.credentials == ["Bearer s3cret", f"Basic {basic}"]


def test_what_is_not_taken_is_said_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what the other end says, of which not more is read than a line, and that made safe to show."""
    with _answering(OtherEnd(status=500, answer=b'"bad \x1b[2J label"' + b"x" * 5_000_000)) as end:
        receiver = _push(AlertmanagerSettings(url=end.url), FIRING)
    assert receiver.error.startswith('it answers 500: "bad \\x1b[2J label"xxx')
    assert len(receiver.error) < 250
    assert (receiver.failures, receiver.last_success) == (1, None)
    assert caplog.text.count("cannot push alerts to") == 1


def test_what_is_no_alertmanager_has_not_taken_an_alert() -> None:
    """An Alertmanager that takes alerts answers nothing, a proxy that wants a login a page, and both 200."""
    with _answering(OtherEnd(answer=b"<html><title>Log in</title>")) as end:
        receiver = _push(AlertmanagerSettings(url=end.url), FIRING)
    assert receiver.error == (
        "what answers is no Alertmanager, but a page of a proxy or another program: <html><title>Log in</title>"
    )
    assert (receiver.failures, receiver.last_success) == (1, None)


@pytest.mark.parametrize("hour", ["07", "09"])
def test_what_fires_is_pushed_by_the_clock_of_the_other_end(hour: str) -> None:
    """Where ours is an hour behind, it would be over there; that is known by the first answer, and from then on."""
    hours = int(hour) - 8
    with _answering(OtherEnd(date=f"Fri, 15 Jan 2027 {hour}:00:00 GMT")) as end:
        receiver = _push(AlertmanagerSettings(url=end.url), FIRING)
    assert [one[0]["endsAt"][:16] for one in end.pushed] == ["2027-01-15T08:05", f"2027-01-15T{8 + hours:02}:05"]
    assert [one[0]["startsAt"][:16] for one in end.pushed] == ["2027-01-15T07:50", f"2027-01-15T{7 + hours:02}:50"]
    assert receiver.error == ""


def test_a_clock_that_was_just_set_moves_no_alert() -> None:
    """Until those are offered that have followed it: the times of an alert and the present are by one clock."""
    clock = FakeClock()
    with _answering(OtherEnd(date="Fri, 15 Jan 2027 08:00:00 GMT")) as end:
        receiver = Alertmanager(AlertmanagerSettings(url=end.url), EvaluationSettings(resend=0.0), Links(), clock)

        async def push() -> None:
            async with receiver.connection() as client:
                receiver.offer([FIRING])
                await receiver.push_due(client)
                clock.now -= 60 * MINUTE
                await receiver.push_due(client)
                receiver.offer(shifted({FIRING.key: FIRING}, -60 * MINUTE).values())
                await receiver.push_due(client)

        asyncio.run(push())
    assert {(one[0]["startsAt"][:16], one[0]["endsAt"][:16]) for one in end.pushed} == {
        ("2027-01-15T07:50", "2027-01-15T08:05")
    }
    assert len(end.pushed) == 3


def test_what_fires_is_pushed_again_before_it_expires_without_an_evaluation() -> None:
    """These may be further apart than alerts last."""
    steady = FakeClock(5)
    with _answering(OtherEnd()) as end:
        receiver = Alertmanager(
            AlertmanagerSettings(url=end.url), EvaluationSettings(resend=0.01), Links(), FakeClock(), steady
        )

        async def run() -> None:
            receiver.offer([FIRING])
            running = asyncio.create_task(receiver.run())
            async with asyncio.timeout(10):
                while end.pushed[-1:] == [] or end.pushed[-1][0]["endsAt"] < "2027-01-15T08:14":
                    await asyncio.sleep(0.005)
                    steady.now = 5 + 10 * MINUTE if end.pushed else 5
            running.cancel()

        asyncio.run(run())
    assert [end.pushed[at][0]["endsAt"][:16] for at in (0, -1)] == ["2027-01-15T08:05", "2027-01-15T08:15"]


@pytest.mark.parametrize("date", ["Fri, 15 Jan 2027 08:00:04 GMT", "", "soon", "Fri, 15 Jan 99999 08:00:04 GMT"])
def test_clocks_that_hardly_differ_are_taken_for_the_same(date: str) -> None:
    """So are those of who does not say what its clock shows."""
    with _answering(OtherEnd(date=date)) as end:
        _push(AlertmanagerSettings(url=end.url), FIRING)
    assert [one[0]["endsAt"] for one in end.pushed] == ["2027-01-15T08:05:00.000+00:00"]


def test_an_alert_of_a_rule_that_is_gone_is_resolved_over_there() -> None:
    """It fired before the restart that read another file; what was pending is nobody's business."""
    pending = replace(FIRING, subject=Subject(app="calm"), firing_since=None)
    left = retire({one.key: one for one in (FIRING, pending)}, (), NOW)
    with _answering(OtherEnd()) as end:
        receiver = _push(AlertmanagerSettings(url=end.url), *left.values())
    ((posted,),) = end.pushed
    assert (posted["labels"]["alertname"], posted["endsAt"]) == ("leak", "2027-01-15T08:00:00.000+00:00")
    assert receiver.last_success == NOW


def test_one_alert_that_is_refused_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is pushed by itself from then on, logged once, and said for as long as it is there."""
    alerts = [replace(FIRING, subject=Subject(host=f"web-{number}")) for number in range(70)]
    with _answering(OtherEnd(refuses="web-3")) as end:
        receiver = Alertmanager(AlertmanagerSettings(url=end.url), EvaluationSettings(resend=0.0), Links(), FakeClock())

        async def push() -> None:
            async with receiver.connection() as client:
                receiver.offer(alerts)
                for _ in range(2):
                    await receiver.push_due(client)
                assert receiver.error.startswith("1 alert is refused: it answers 400")
                receiver.offer(alerts[:3])
                await receiver.push_due(client)

        asyncio.run(push())
    # A batch, its alerts one by one, the other batch; then both, and the refused one; then without it.
    assert [len(one) for one in end.pushed] == [64, *[1] * 64, 6, 64, 5, 1, 3]
    assert caplog.text.count("refuses the alert leak of web-3") == 1
    assert (receiver.error, receiver.failures) == ("", 2)


def test_one_that_refuses_everything_is_not_asked_for_each(caplog: pytest.LogCaptureFixture) -> None:
    """It is no Alertmanager, say: after a while of that it is as one that does not answer."""
    alerts = [replace(FIRING, subject=Subject(host=f"web-{number}")) for number in range(150)]
    with _answering(OtherEnd(status=400)) as end:
        receiver = _push(AlertmanagerSettings(url=end.url), *alerts)
    assert [len(one) for one in end.pushed] == [64, *[1] * 64]
    assert receiver.error == "it answers 400"
    assert caplog.text.count("cannot push alerts to") == 1


def test_an_error_that_nobody_foresaw_is_one_of_the_push(caplog: pytest.LogCaptureFixture) -> None:
    """Such as that of an address that the settings should have refused. Others are told, and it is tried again."""
    receiver = _push(AlertmanagerSettings(url="http://192.168.1.300:9093"), FIRING)
    assert receiver.error == "InvalidURL, a mistake of loiter's; its log says more"
    assert receiver.failures == 1
    assert "Traceback" in caplog.text


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """A token is for whom it is for."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    with (
        _answering(OtherEnd()) as elsewhere,
        _answering(OtherEnd(status=307, headers={"Location": f"{elsewhere.url}/api/v2/alerts"})) as end,
    ):
        receiver = _push(AlertmanagerSettings(url=end.url, token_file=secret), FIRING)
    assert receiver.error == "it answers 307"
    assert elsewhere.pushed == []


def test_an_authority_that_is_not_trusted_is_told_nothing(tmp_path: Path) -> None:
    """One that the settings name is."""
    pki, other = Pki(tmp_path / "pki"), Pki(tmp_path / "other")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki.server.certificate, pki.server.key)
    with _answering(OtherEnd(), tls) as end:
        for ca in (None, other.ca):
            assert "CERTIFICATE_VERIFY_FAILED" in _push(AlertmanagerSettings(url=end.url, ca=ca), FIRING).error
        assert end.pushed == []
        assert _push(AlertmanagerSettings(url=end.url, ca=pki.ca), FIRING).error == ""
        assert len(end.pushed) == 1


def test_a_secret_that_is_gone_is_said(tmp_path: Path) -> None:
    """The alerts wait until it is back."""
    settings = AlertmanagerSettings(url="http://127.0.0.1:9", token_file=tmp_path / "gone")
    assert _push(settings, FIRING).error == f"cannot read {tmp_path / 'gone'}: No such file or directory"
