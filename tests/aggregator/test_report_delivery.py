"""How reports are delivered: tries, signatures, e-mails, files. The real other ends are in tests/peers."""

from __future__ import annotations

import asyncio
import base64
import email
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from loiter_aggregator.reports.delivery.failure import DeliveryError, is_final, retry_after_seconds, wait_seconds
from loiter_aggregator.reports.delivery.folder import deliver_to_folder
from loiter_aggregator.reports.delivery.mail import compose, deliver_by_mail
from loiter_aggregator.reports.delivery.outgoing import Outgoing, delivery_id
from loiter_aggregator.reports.delivery.redaction import secrets_of, without
from loiter_aggregator.reports.delivery.signing import webhook_headers
from loiter_aggregator.reports.delivery.webhook import deliver_to_webhook, webhook_body
from loiter_aggregator.reports.file import Smtp, Webhook
from support.fleet_reports import HOSTILE_LINKS, fleet_report
from support.full_disks import BALLAST_BYTES, small_disk
from support.programs import free_port
from support.reports import NOW
from support.webhooks import receiver

WHEN = datetime(2027, 1, 15, 8, tzinfo=UTC)


def _outgoing(name: str = "api", **files: bytes) -> Outgoing:
    return Outgoing(fleet_report(name), files, "daily", NOW, delivery_id("here", "daily", NOW, "x"))


def _waits(*retry_after: float | None, rest: float | None = None, hang: float = 0.0) -> list[float]:
    """The waits until it is given up, by what the other end says at each try, each of which takes so long."""
    waits: list[float] = []
    passed = hang
    while True:
        said = retry_after[len(waits)] if len(waits) < len(retry_after) else rest
        wait = wait_seconds(len(waits) + 1, passed, DeliveryError("busy", retry_after=said))
        if wait is None:
            return waits
        waits.append(wait)
        passed += wait + hang


@pytest.mark.parametrize("hang", [0.0, 30.0])
def test_tries_are_further_and_further_apart_for_a_day(hang: float) -> None:
    """Then it is given up."""
    assert _waits(hang=hang) == [60, 300, 900, 3_600, 7_200, 14_400, 28_800, 28_800]


def test_the_other_end_may_say_when_to_come_back() -> None:
    """But not again and again at once: it is tried for a day all the same."""
    assert _waits(7.0)[:2] == [7, 60]
    assert _waits(0.0)[0] == 1
    assert _waits(1e9)[0] == 86_400
    for seconds in (0.0, 1.0, 30.0, 600.0):
        waits = _waits(rest=seconds)
        assert 80_000 < sum(waits) < 110_000
        assert len(waits) < 150
    assert _waits(rest=1.0)[:14] == [*(2.0**power for power in range(12)), 3_600, 3_600]


def test_a_plain_failure_after_many_tries_that_were_asked_for_is_not_the_last() -> None:
    """What counts is for how long it was tried."""
    waits = _waits(*([1.0] * 9))
    assert waits[9] == 900  # eight and a half minutes have passed
    assert sum(waits) > 80_000


def test_a_clock_that_is_set_ahead_does_not_end_the_tries() -> None:
    """Nor does one that is set back have it tried for ever."""
    assert wait_seconds(2, 40 * 86_400, DeliveryError("busy")) == 300
    assert wait_seconds(9, 40 * 86_400, DeliveryError("busy")) is None
    assert wait_seconds(2, -86_400, DeliveryError("busy")) == 60
    assert wait_seconds(100, -86_400, DeliveryError("busy", retry_after=1)) is None


def test_what_the_other_end_says_of_when_to_come_back_is_read() -> None:
    """Seconds, or a date; anything else says nothing. What it refuses for good is not tried again."""
    assert wait_seconds(1, 0, DeliveryError("no", final=True)) is None
    assert retry_after_seconds("120") == 120
    assert retry_after_seconds("Fri, 15 Jan 2027 08:01:00 GMT", WHEN) == 60
    assert retry_after_seconds("Fri, 15 Jan 2027 07:01:00 GMT", WHEN) == 0
    assert [retry_after_seconds(text) for text in (None, "", "soon", "-5", "1" * 100, "٣")] == [None] * 6


def test_what_will_be_refused_again_is_not_tried_again() -> None:
    """Answers of a web server."""
    assert [status for status in (400, 401, 404, 408, 410, 425, 429, 500, 503, 507) if is_final(status)] == [
        400,
        401,
        404,
        410,
    ]


def test_a_delivery_has_one_id_however_often_it_is_tried() -> None:
    """And another one for another target, time, schedule or aggregator."""
    ids = {
        delivery_id("here", "daily", 1, "folder /x"),
        delivery_id("here", "daily", 1, "folder /y"),
        delivery_id("here", "daily", 2, "folder /x"),
        delivery_id("here", "weekly", 1, "folder /x"),
        delivery_id("there", "daily", 1, "folder /x"),
    }
    assert len(ids) == 5
    assert delivery_id("here", "daily", 1, "folder /x") in ids


def test_a_message_is_signed_as_the_specification_has_it() -> None:
    """Its own example: https://github.com/standard-webhooks/standard-webhooks, libraries/python."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}', key)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert "webhook-signature" not in webhook_headers("m", 1, b"", None)


def test_a_webhook_gets_the_report_as_an_event() -> None:
    """With the schedule that it is of."""
    event = json.loads(webhook_body(_outgoing(), Webhook(name="x", url="https://x.example")))
    assert (event["type"], event["schedule"], event["timestamp"]) == (
        "loiter.report",
        "daily",
        "2027-01-15T08:00:00.000Z",
    )
    assert event["data"]["findings"][0]["app"] == "api"


def test_a_webhook_gets_the_same_text_again_after_a_restart() -> None:
    """The order in which Protobuf holds labels is another one in each process."""
    outgoing = _outgoing()
    labels = dict.fromkeys(("role", "dc", "zone", "app", "team", "rack", "env"), "x")
    outgoing.report.labels.update(labels)
    outgoing.report.hosts[0].labels.update(labels)
    data = json.loads(webhook_body(outgoing, Webhook(name="x", url="https://x.example")))["data"]
    for written in (data["labels"], data["hosts"][0]["labels"]):
        assert set(labels) <= set(written)
        assert list(written) == sorted(written)


def test_an_e_mail_has_text_html_pictures_and_what_is_attached() -> None:
    """Pictures are referred to by their Content-ID."""
    smtp = Smtp(host="mail.example", from_="loiter@example.net")
    files = {
        "mail": b'<p>hello</p><img src="cid:chart-a.png">',
        "chart-a.png": b"\x89PNG",
        "json": b"{}",
        "md": b"# x",
    }
    outgoing = Outgoing(fleet_report(HOSTILE_LINKS), files, "daily", NOW, "0123abcd")
    written = compose(outgoing, smtp, "ops@example.net", ("md", "json"), WHEN).as_bytes()
    read = email.message_from_bytes(written, policy=default)
    assert isinstance(read, EmailMessage)
    assert read["To"] == "ops@example.net"
    assert read["Bcc"] is None
    assert read["Message-ID"] == "<0123abcd@example.net>"
    assert read["Auto-Submitted"] == "auto-generated"
    assert read["Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert read["Subject"].startswith("Fleet report: 2 new, 1 worse")
    assert read.get_content_type() == "multipart/mixed"
    alternative, *attached = read.iter_parts()
    assert [part.get_filename() for part in attached] == ["daily-20270115T080000Z.md", "daily-20270115T080000Z.json"]
    text, related = alternative.iter_parts()
    assert text.get_content_type() == "text/plain"
    html, picture = related.iter_parts()
    assert picture.get_content_type() == "image/png"
    assert f'src="cid:{picture["Content-ID"][1:-1]}"' in html.get_content()


def test_a_server_that_is_not_there_is_said_without_the_password(tmp_path: Path) -> None:
    """And tried again."""
    (tmp_path / "password").write_text("hunter2")
    smtp = Smtp(
        host="127.0.0.1",
        from_="loiter@example.net",
        port=free_port(),
        user="me",
        password_file=tmp_path / "password",
    )
    with pytest.raises(DeliveryError, match=r"127\.0\.0\.1:\d+ can not be reached: Connection refused") as caught:
        deliver_by_mail(_outgoing(mail=b""), smtp, "ops@example.net", ())
    assert not caught.value.final


@contextmanager
def _dripping_server() -> Iterator[int]:
    """A mail server that greets for ever, a letter at a time: no single read of its words takes long."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.settimeout(0.01)
                connection.sendall(b"220-")
                while True:
                    connection.sendall(b"x")
                    with suppress(TimeoutError):
                        if not connection.recv(1):
                            return

        dripping = threading.Thread(target=drip)
        dripping.start()
        yield int(listening.getsockname()[1])
        dripping.join()


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_a_mail_server_that_takes_for_ever_is_left(security: str) -> None:
    """However lively it is: it is tried again, and holds up nobody."""
    with _dripping_server() as port:
        smtp = Smtp(host="127.0.0.1", from_="loiter@example.net", port=port, security=security)
        with pytest.raises(DeliveryError) as caught:
            deliver_by_mail(_outgoing(mail=b""), smtp, "ops@example.net", (), seconds=0.2)
    assert not caught.value.final
    if security != "tls":  # what drips is no TLS, and that is seen at once
        assert str(caught.value) == f"127.0.0.1:{port} has not taken it within 0.2 s"


def test_a_webhook_is_told_no_password_that_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be one in ~/.netrc, for the same host."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with receiver() as hook:
        asyncio.run(deliver_to_webhook(_outgoing(), Webhook(name="x", url=hook.url)))
    (came,) = hook.came
    assert "authorization" not in came.headers


_URL = "https://hooks.example/services/T00AAA/B00BBB/s3cr%2Fet?key=pass+word&x=1"
_KEY = base64.b64encode(bytes(range(24))).decode()


@pytest.mark.parametrize(
    "said",
    [
        f"no such hook: {_URL}",
        "no_service: T00AAA/B00BBB/s3cr%2Fet",
        "no_service: T00AAA of B00BBB, token s3cr/et",
        r'{"path": "\/services\/T00AAA\/B00BBB\/s3cr%2fet"}',
        "POST /services/T00AAA/B00BBB/s3cr%2Fet?key=pass+word",
        "T00AAA%2FB00BBB%2Fs3cr%252Fet, key=pass%20word",
        "t00aaa and the password 'pass word'",
        f"signed with {_KEY}, which is whsec_{_KEY} or {bytes(range(24)).hex()}",
        f"%77hsec {_KEY.replace('/', '%2F')}",
    ],
)
def test_what_a_receiver_says_is_recorded_without_what_is_secret(said: str) -> None:
    """It may echo the address, or parts of it, however they are written, and the key."""
    shown = without(secrets_of(_URL, _KEY, bytes(range(24)).hex()), said)
    for secret in ("services", "t00aaa", "b00bbb", "s3cr", "pass", _KEY.lower()[:20], "010203"):
        assert secret not in shown.lower().replace("password '", "")
    assert "…" in shown


def test_what_a_receiver_says_of_why_stays_readable() -> None:
    """Where it holds nothing secret."""
    said = "invalid_payload: missing text in block 3"
    assert without(secrets_of("https://x.example/in/a/b", _KEY), said) == said


class _Echo:
    """A web server that refuses what it gets, and says where it was sent, again and again."""

    def __init__(self, times: int) -> None:
        self._times = times

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        body = f"no {path} " * self._times
        writer.write(f"HTTP/1.1 404 No {path}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()


@pytest.mark.parametrize("times", [1, 200])
def test_neither_the_reason_nor_what_is_cut_shows_a_part_of_a_secret(times: int) -> None:
    """What is read of an answer ends somewhere, maybe within one."""
    token = "k" + "0123456789" * 7

    async def sends() -> str:
        server = await asyncio.start_server(_Echo(times).take, "127.0.0.1", 0, limit=1 << 20)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(DeliveryError) as caught:
                await deliver_to_webhook(_outgoing(), Webhook(name="x", url=f"http://127.0.0.1:{port}/hook/{token}"))
        return str(caught.value)

    said = asyncio.run(sends())
    assert said.startswith("answered 404 No …: no …")
    assert "012" not in said
    assert "k0" not in said


def test_a_webhook_is_reached_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slack is outside, and not every network lets everybody out."""
    with receiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        asyncio.run(deliver_to_webhook(_outgoing(), Webhook(name="x", url="http://hooks.example/in")))
    assert [one.path for one in proxy.came] == ["http://hooks.example/in"]


def test_a_folder_gets_files_of_the_due_time_and_the_same_again(tmp_path: Path) -> None:
    """A second try changes nothing; a folder that can not be written to is an error."""
    folder = tmp_path / "new" / "reports"
    for _ in range(2):
        deliver_to_folder(_outgoing(html=b"<p>", json=b"{}"), folder)
        assert sorted(file.name for file in folder.iterdir()) == [
            "daily-20270115T080000Z.html",
            "daily-20270115T080000Z.json",
        ]
    assert (folder / "daily-20270115T080000Z.html").stat().st_mode & 0o777 == 0o640
    (tmp_path / "file").write_text("")
    with pytest.raises(DeliveryError, match=r"cannot write to .*file"):
        deliver_to_folder(_outgoing(json=b"{}"), tmp_path / "file")


def test_a_disk_that_is_full_is_said_and_tried_again(tmp_path: Path) -> None:
    """Nothing is left that would take room, or that is no whole file; when there is room, it arrives."""
    large = bytes(BALLAST_BYTES // 2)
    with small_disk(tmp_path / "disk", BALLAST_BYTES + 100_000) as disk:
        folder = disk / "reports"
        with pytest.raises(DeliveryError, match=r"cannot write to .*reports: No space left on device") as caught:
            deliver_to_folder(_outgoing(json=b"{}", html=large), folder)
        assert not caught.value.final
        assert [file.name for file in folder.iterdir()] == ["daily-20270115T080000Z.json"]
        (disk / "ballast").unlink()
        deliver_to_folder(_outgoing(json=b"{}", html=large), folder)
        assert (folder / "daily-20270115T080000Z.html").read_bytes() == large
