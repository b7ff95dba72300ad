"""The file of reports: everything in it is checked before anything starts."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from loiter.settings import SettingsError, entries
from loiter_aggregator.reports.delivery.targets import targets_of
from loiter_aggregator.reports.file import Schedule, Smtp, Webhook, load_reports, signing_key, webhook_url
from support.programs import ROOT

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
SLACK = "https://hooks.slack.example/services/T0/B0/secret-part"

GOOD = """
[[report]]
name = "daily"
cron = "0 8 * * mon-fri"
time_zone = "Europe/Berlin"
formats = ["json", "html"]
labels = { role = "web" }
folder = "FOLDER/reports"
mail_to = ["ops@example.net"]
webhooks = ["chat", "tickets"]

[smtp]
host = "mail.example.net"
from = "loiter@example.net"
user = "loiter"
password_file = "FOLDER/password"

[[webhook]]
name = "chat"
kind = "slack"
url_file = "FOLDER/url"

[[webhook]]
name = "tickets"
url = "https://tickets.example.net/in"
secret_file = "FOLDER/secret"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text("hunter2\n")
    (tmp_path / "url").write_text(SLACK + "\n")
    (tmp_path / "clear").write_text(SLACK.replace("https", "http"))
    (tmp_path / "secret").write_text(SECRET + "\n")
    return tmp_path


def _written(folder: Path, text: str) -> Path:
    file = folder / "reports.toml"
    file.write_text(text.replace("FOLDER", str(folder)))
    return file


def test_a_file_says_when_which_report_goes_where(folder: Path) -> None:
    """What is not said has its default."""
    file = load_reports(_written(folder, GOOD))
    daily = file.schedule("daily")
    assert daily is not None
    assert daily.cron.text == "0 8 * * mon-fri"
    assert daily.time_zone.key == "Europe/Berlin"
    assert daily.formats == ("html", "json")
    assert daily.misfire_grace == 86_400
    assert daily.period is None
    assert file.smtp is not None
    assert file.smtp.address == ("mail.example.net", 587)
    assert targets_of(daily) == [
        f"folder {folder}/reports",
        "mail ops@example.net",
        "webhook chat",
        "webhook tickets",
    ]
    chat, tickets = file.webhooks
    assert webhook_url(chat) == SLACK
    assert signing_key(tickets) == bytes(range(24))
    assert load_reports(None).reports == ()


def test_lists_of_targets_hold_no_secret(folder: Path) -> None:
    """Neither the address of a webhook nor a password."""
    file = load_reports(_written(folder, GOOD))
    assert "secret" not in " ".join(targets_of(file.reports[0]))


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ('"0 8 * * mon-fri"', '"0 8 * *"', r"reports.toml:4: cron: .* is not a cron expression of five fields"),
        ('"0 8 * * mon-fri"', '"0 8 30 2 *"', r"reports.toml:4: cron: .* is never due"),
        ("Europe/Berlin", "Europe/Nowhere", r"reports.toml:5: time_zone: 'Europe/Nowhere' is not a time zone"),
        ("Europe/Berlin", "../../etc/passwd", r"is not a time zone"),
        ('name = "daily"\n', "", r"reports.toml:2: name: it has to be set"),
        ('name = "daily"', 'name = "a/b"', r"is not a name"),
        ("labels", "lables", r"reports.toml:7: lables: unknown setting; did you mean labels"),
        ("ops@example.net", r"ops@example.net\r\nBcc: x@example.net", r"mail_to: .* is not an e-mail address"),
        ('["json", "html"]', '["pdf"]', r"formats: 'pdf' is not one of html"),
        (
            'webhooks = ["chat", "tickets"]',
            'webhooks = ["chta"]',
            r"reports.toml:10: webhooks: none is called chta; there are chat, tickets",
        ),
        (
            'name = "tickets"',
            'name = "chat"',
            r"reports.toml:24: name: chat is there twice; give each \[\[webhook\]\] its own",
        ),
        (
            "[smtp]",
            "[[smtp]]\nhost = 'x'\nfrom = 'a@b'\n[[smtp]]",
            r"reports.toml:15: \[\[smtp\]\]: more than 1 of these",
        ),
        ("loiter@example.net", "loiter", r"from: 'loiter' is not an e-mail address"),
        ('user = "loiter"\n', "", r"reports.toml:12: \[smtp\]: user and password_file go together"),
        ('user = "loiter"\n', 'user = "loiter"\nsecurity = "none"\n', r"reports.toml:16: security: .* in the clear"),
        ("FOLDER/password", "FOLDER/missing", r"reports.toml:16: password_file: cannot read .*/missing: No such file"),
        ("FOLDER/secret", "FOLDER/password", r"reports.toml:26: secret_file: .*password holds no secret"),
        ("FOLDER/url", "FOLDER/password", r"reports.toml:21: url_file: .*password: not an address such as"),
        ("https://tickets.example.net/in", "ftp://tickets.example.net/hush", r"url: not an address such as"),
        ("FOLDER/reports", "reports", r"is not absolute"),
        ("FOLDER/reports", "FOLDER/password", r"reports.toml:8: folder: .*/password is not a folder"),
        ('url_file = "FOLDER/url"', "", r"reports.toml:18: \[\[webhook\]\]: set one of url and url_file"),
        (
            "https://tickets.example.net/in",
            "https://me:hush@tickets.example.net/in",
            r"url: .* no user and no password",
        ),
        (
            "FOLDER/url",
            "FOLDER/clear",
            r"reports.toml:21: url_file: an address of Slack's is a secret, .* write https://",
        ),
        (
            "FOLDER/reports",
            "/" + "r" * 300,
            r"reports.toml:8: folder: cannot use the folder /r{79}…: File name too long",
        ),
        ("FOLDER/reports", "/xx" * 2_000, r"reports.toml:8: folder: cannot use the folder /xx/.*: File name too long"),
        ("FOLDER/reports", r"/x\u0000y", r"is not a path"),
        ('name = "daily"', f'name = "{"d" * 64}"', r"is not a name: at most 63"),
        (
            'kind = "slack"',
            'kind = "slack"\nca = "FOLDER/password"',
            r"reports.toml:21: ca: .*password holds no certificates",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder: Path, was: str, becomes: str, said: str) -> None:
    """And never with a secret."""
    assert GOOD.count(was) >= 1
    with pytest.raises(SettingsError, match=said) as caught:
        load_reports(_written(folder, GOOD.replace(was, becomes, 1)))
    for secret in ("hunter2", "secret-part", SECRET[6:], "hush"):
        assert secret not in str(caught.value)


def test_a_report_that_goes_nowhere_is_an_error(folder: Path) -> None:
    """So is one by e-mail without a server."""
    with pytest.raises(SettingsError, match=r"reports.toml:1: \[\[report\]\]: it goes nowhere"):
        load_reports(_written(folder, '[[report]]\nname = "daily"\ncron = "0 8 * * *"\n'))
    with pytest.raises(SettingsError, match=r"reports.toml:4: mail_to: it needs a table \[smtp\]"):
        load_reports(_written(folder, '[[report]]\nname = "daily"\ncron = "0 8 * * *"\nmail_to = ["a@example.net"]\n'))


def test_the_file_that_the_guide_shows_is_one(folder: Path) -> None:
    """Every setting that it names is there, and no other is."""
    guide = (ROOT / "docs/operate/reports.md").read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    for name, content in (("smtp.password", "hunter2"), ("slack.url", SLACK), ("tickets.secret", SECRET)):
        (folder / name).write_text(content)
    written = shown.replace("/etc/loiter", str(folder)).replace("/var/lib/loiter", str(folder))
    assert load_reports(_written(folder, written)).schedule("daily") is not None
    for kind, settings in (("[report]", Schedule), ("smtp", Smtp), ("[webhook]", Webhook)):
        (rows,) = re.findall(rf"^\| `\[{re.escape(kind)}\]` \| .*\n\|---.*\n((?:\|.*\n)+)", guide, re.MULTILINE)
        named = set(re.findall(r"`([a-z_]+)`", "".join(row.split("|")[1] for row in rows.splitlines())))
        assert named == {entry.name for entry in entries(settings)}, kind
