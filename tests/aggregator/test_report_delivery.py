"""How reports are delivered: tries, signatures, e-mails, files. The real other ends are in tests/peers."""

from __future__ import annotations

import base64
import email
import json
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from loiter_aggregator.reports.delivery.failure import DeliveryError, is_final, retry_after_seconds, wait_seconds
from loiter_aggregator.reports.delivery.folder import deliver_to_folder
from loiter_aggregator.reports.delivery.mail import compose, deliver_by_mail
from loiter_aggregator.reports.delivery.outgoing import Outgoing, delivery_id
from loiter_aggregator.reports.delivery.signing import webhook_headers
from loiter_aggregator.reports.delivery.webhook import webhook_body
from loiter_aggregator.reports.file import Smtp, Webhook
from support.fleet_reports import HOSTILE_LINKS, fleet_report
from support.programs import free_port
from support.reports import NOW

WHEN = datetime(2027, 1, 15, 8, tzinfo=UTC)


def _outgoing(name: str = "api", **files: bytes) -> Outgoing:
    return Outgoing(fleet_report(name), files, "daily", NOW, delivery_id("here", "daily", NOW, "x"))


def test_tries_are_further_and_further_apart_for_a_day() -> None:
    """Then it is given up."""
    error = DeliveryError("busy")
    waits = [wait_seconds(tries, error) for tries in range(1, 10)]
    assert waits == [60, 300, 900, 3_600, 7_200, 14_400, 28_800, 28_800, None]


def test_the_other_end_may_say_when_to_come_back() -> None:
    """Within reason; and it is not asked for ever."""
    assert wait_seconds(1, DeliveryError("busy", retry_after=7)) == 7
    assert wait_seconds(1, DeliveryError("busy", retry_after=0)) == 1
    assert wait_seconds(1, DeliveryError("busy", retry_after=1e9)) == 86_400
    assert wait_seconds(100, DeliveryError("busy", retry_after=7)) is None
    assert wait_seconds(1, DeliveryError("no", final=True)) is None
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
