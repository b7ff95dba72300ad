"""The file of reports: when which report is built, and where it goes."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from loiter.limits import MAX_WINDOW_SECONDS
from loiter.settings import (
    REQUIRED,
    Where,
    check_distinct,
    check_number,
    duration,
    integer,
    labels,
    load_tables,
    one_of,
    path,
    setting,
    text,
)
from loiter_aggregator.receivers import read_secret, trust
from loiter_aggregator.reports import readers
from loiter_aggregator.reports.cron import Cron
from loiter_aggregator.reports.due import Timing

_DAY: Final = 86_400.0
_STANDARD_WEBHOOKS_PREFIX: Final = "whsec_"
_MIN_KEY_BYTES: Final = 16
_MAX_SHOWN: Final = 80
_UTC: Final = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A table `[[report]]`: a report that is built when it is due, and sent to its targets."""

    name: str = setting(REQUIRED, readers.name, "what it is called, in lists and in names of files")
    cron: Cron = setting(REQUIRED, readers.cron, "when it is due")
    time_zone: ZoneInfo = setting(_UTC, readers.time_zone, "the zone of the clock that `cron` goes by")
    period: float | None = setting(
        None, duration(60, MAX_WINDOW_SECONDS), "what it is about; the time since the last one if not set"
    )
    labels: tuple[tuple[str, str], ...] = setting((), labels, "only hosts that carry all of these labels")
    title: str = setting("Fleet report", readers.title, "its heading")
    formats: tuple[str, ...] = setting(("html",), readers.formats, "the files in the folder, and attached to e-mails")
    limit: int = setting(10, integer(1, 100), "how many hosts, processes and apps it names")
    misfire_grace: float = setting(
        _DAY, duration(60, 31 * _DAY), "how late it may still be built, as after the aggregator was down"
    )
    folder: Path | None = setting(None, readers.folder, "the folder that it is written to")
    mail_to: tuple[str, ...] = setting((), readers.mail_addresses, "whom it is sent to by e-mail, each on their own")
    webhooks: tuple[str, ...] = setting((), readers.names, "the names of the `[[webhook]]` tables it is sent to")
    where: Where = field(default=Where(), compare=False)

    @property
    def timing(self) -> Timing:
        """When it is due."""
        return Timing(self.cron, self.time_zone)


@dataclass(frozen=True, slots=True)
class Smtp:
    """The table `[smtp]`: the server that takes e-mails."""

    host: str = setting(REQUIRED, readers.host, "the server")
    from_: str = setting(REQUIRED, readers.mail_address, "the address that e-mails are from")
    port: int | None = setting(
        None, integer(1, 65_535), "its port; 587 with `starttls`, 465 with `tls` and 25 with `none` if not set"
    )
    security: str = setting("starttls", one_of("starttls", "tls", "none"), "how the connection is encrypted")
    user: str | None = setting(None, text, "the name to log in with; without, nobody logs in")
    password_file: Path | None = setting(None, path, "file with the password of `user`")
    ca: Path | None = setting(None, path, "authorities to trust the server by (PEM); those of the system if not set")
    where: Where = field(default=Where(), compare=False)

    @property
    def address(self) -> tuple[str, int]:
        """The server and its port."""
        return self.host, self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A table `[[webhook]]`: a program that takes reports by HTTP."""

    name: str = setting(REQUIRED, readers.name, "what it is called in `webhooks` of a report")
    url: str | None = setting(None, readers.web_address, "its address")
    url_file: Path | None = setting(None, path, "file with its address, for one that is a secret, as those of Slack")
    kind: str = setting("json", one_of("json", "slack"), "what it takes: the report as JSON, or a message of Slack's")
    secret_file: Path | None = setting(None, path, "of `json`: file with the secret to sign with (whsec_…, base64)")
    ca: Path | None = setting(None, path, "authorities to trust it by (PEM); those of the system if not set")
    where: Where = field(default=Where(), compare=False)


@dataclass(frozen=True, slots=True)
class ReportFile:
    """What a file says; without one, no report is scheduled."""

    reports: tuple[Schedule, ...] = ()
    smtp: Smtp | None = None
    webhooks: tuple[Webhook, ...] = ()

    def schedule(self, name: str) -> Schedule | None:
        """The schedule of a name."""
        return next((one for one in self.reports if one.name == name), None)

    def webhook(self, name: str) -> Webhook | None:
        """The webhook of a name."""
        return next((one for one in self.webhooks if one.name == name), None)


def load_reports(file: Path | None) -> ReportFile:
    """Reads a file of reports. Raises SettingsError, whose message says where in the file and what would be right."""
    if file is None:
        return ReportFile()
    tables = load_tables(file, {"report": Schedule, "smtp": Smtp, "webhook": Webhook})
    found = ReportFile(tuple(tables["report"]), next(iter(tables["smtp"]), None), tuple(tables["webhook"]))
    check_number(tables["smtp"], 1)
    check_distinct(found.reports, "name")
    check_distinct(found.webhooks, "name")
    for schedule in found.reports:
        _check_schedule(schedule, found)
    if found.smtp is not None:
        _check_smtp(found.smtp)
    for webhook in found.webhooks:
        _check_webhook(webhook)
    return found


def _check_schedule(schedule: Schedule, file: ReportFile) -> None:
    where = schedule.where
    if not (schedule.folder or schedule.mail_to or schedule.webhooks):
        raise where.wrong("it goes nowhere; set folder, mail_to or webhooks")
    if schedule.mail_to and file.smtp is None:
        raise where.wrong("it needs a table [smtp] that names the server", "mail_to")
    for name in schedule.webhooks:
        if file.webhook(name) is None:
            raise where.wrong(f"none is called {name}{_there_are([one.name for one in file.webhooks])}", "webhooks")
    if schedule.folder is not None:
        with where.reading("folder"):
            _check_folder(schedule.folder)


def _there_are(names: Sequence[str]) -> str:
    return f"; there are {', '.join(names)}" if names else "; there is no table [[webhook]]"


def _check_folder(folder: Path) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        there = next(one for one in (folder, *folder.parents) if one.exists())
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"cannot use the folder {_cut(str(folder))}: {error.strerror}") from None
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write to {there}; give it to the aggregator's user, or choose another folder")


def _cut(name: str) -> str:
    return name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"


def _check_smtp(smtp: Smtp) -> None:
    if (smtp.user is None) != (smtp.password_file is None):
        raise smtp.where.wrong("user and password_file go together")
    if smtp.user is not None and smtp.security == "none" and not _is_loopback(smtp.host):
        raise smtp.where.wrong('a password goes over the network in the clear; take "starttls" or "tls"', "security")
    if smtp.password_file is not None:
        with smtp.where.reading("password_file"):
            read_secret(smtp.password_file)
    with smtp.where.reading("ca"):
        trust(smtp.ca)


def _check_webhook(webhook: Webhook) -> None:
    where = webhook.where
    if (webhook.url is None) == (webhook.url_file is None):
        raise where.wrong("set one of url and url_file")
    if webhook.kind == "slack" and webhook.secret_file is not None:
        raise where.wrong("Slack takes no signature, its address is the secret; leave it out", "secret_file")
    with where.reading("url_file" if webhook.url is None else "url"):
        url = urlsplit(webhook_url(webhook))
        if webhook.kind == "slack" and url.scheme != "https" and not _is_loopback(url.hostname or ""):
            raise ValueError(
                "an address of Slack's is a secret, and goes over the network in the clear; write https://"
            )
    with where.reading("secret_file"):
        signing_key(webhook)
    with where.reading("ca"):
        trust(webhook.ca)


def webhook_url(webhook: Webhook) -> str:
    """The address of a webhook. Raises ValueError where its file does not hold one, without quoting it."""
    if webhook.url is not None:
        return webhook.url
    assert webhook.url_file is not None, "one of the two is set"
    written = read_secret(webhook.url_file)
    try:
        return readers.web_address(written)
    except ValueError as error:
        raise ValueError(f"{webhook.url_file}: {error}") from None


def signing_key(webhook: Webhook) -> bytes | None:
    """The key that a webhook's messages are signed with. Raises ValueError, without quoting what the file holds."""
    if webhook.secret_file is None:
        return None
    written = read_secret(webhook.secret_file).removeprefix(_STANDARD_WEBHOOKS_PREFIX)
    try:
        key = base64.b64decode(written, validate=True)
    except binascii.Error:
        key = b""
    if len(key) < _MIN_KEY_BYTES:
        raise ValueError(
            f"{webhook.secret_file} holds no secret: write whsec_ and at least {_MIN_KEY_BYTES} random bytes in "
            "base64, as by: echo whsec_$(openssl rand -base64 32)"
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
