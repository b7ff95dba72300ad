"""The aggregator's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loiter.limits import DEFAULT_HTTP, DEFAULT_SERVER
from loiter.logs import LOG_FORMATS
from loiter.settings import address, address_or_off, boolean, duration, integer, matching, one_of, path, setting

DEFAULT_FILE: Final = Path("/etc/loiter/aggregator.toml")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Table `store`: what is kept, and with how much memory."""

    retention: float = setting(86_400.0, duration(60, 366 * 86_400), "how long samples are kept")
    retention_minutes: float = setting(
        7 * 86_400.0,
        duration(3_600, 3_660 * 86_400),
        "how long rollups of a minute are kept, unless samples are longer",
    )
    retention_five_minutes: float = setting(
        30 * 86_400.0,
        duration(86_400, 3_660 * 86_400),
        "how long rollups of five minutes are kept, unless finer ones are longer",
    )
    retention_hours: float = setting(
        400 * 86_400.0,
        duration(7 * 86_400, 3_660 * 86_400),
        "how long rollups of an hour are kept, unless finer ones are longer",
    )
    seal_after: float = setting(
        7_200.0, duration(600, 7 * 86_400), "how long rows stay in the database before they move to compressed files"
    )
    memory_limit: str = setting(
        "2GB", matching(r"[0-9]{1,6}(MB|GB)", "a size such as 512MB or 2GB"), "the most memory the store may use"
    )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Table `tls`: what the aggregator shows of itself, and whom it trusts. PEM files, read again when they change."""

    certificate: Path | None = setting(
        None,
        path,
        "certificate of the aggregator, with its chain (PEM)",
        flag="--certificate",
        credential="certificate.pem",
    )
    key: Path | None = setting(
        None, path, "private key of that certificate (PEM, without a passphrase)", flag="--key", credential="key.pem"
    )
    client_ca: Path | None = setting(
        None,
        path,
        "certificates of the authorities that agents are trusted by (PEM); then `listen` asks everyone for one",
        flag="--client-ca",
        credential="client-ca.pem",
    )
    revoked: Path | None = setting(
        None, path, "serial numbers of agents' certificates that are refused, one a line", flag="--revoked"
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Table `limits`: what one host may take of the aggregator, and all of them together."""

    streams: int = setting(50_000, integer(1, 1_000_000), "how many agents may be connected")
    streams_per_address: int = setting(
        5_000,
        integer(1, 1_000_000),
        "how many agents without a certificate may be connected from one address (IPv6: from one /64)",
    )
    reports_per_second: int = setting(
        50, integer(1, 100_000), "how many reports a second are read from one host; more have to wait"
    )
    identities_per_hour: int = setting(
        2_000, integer(10, 10_000_000), "how many names of processes one host may add in an hour; more are one name"
    )
    query_seconds: float = setting(30.0, duration(1, 3_600), "how long a question may take")


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Table `web`: the web page."""

    url: str = setting(
        "",
        matching(r"|https?://[A-Za-z0-9.:\[\]-]+/?", "an address such as https://loiter.example.net, without a path"),
        "where people reach the web page, for the links in reports and alerts",
    )
    session: float = setting(12 * 3_600.0, duration(60, 31 * 86_400), "how long a login with a token lasts")


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Table `reports`: reports that are sent on a schedule."""

    file: Path | None = setting(None, path, "file that says when which report goes where; without, none is sent")
    settle: float = setting(
        120.0, duration(0, 3_600), "after the aggregator's start, how long reports wait for the agents to report again"
    )


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Table `alerts`: rules that are evaluated all the time."""

    file: Path | None = setting(
        None, path, "file of rules, and of where alerts are pushed to; without, loiter's own rules, pushed nowhere"
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Table `metrics`: figures for Prometheus, which scrapes them from the web page's address."""

    top: int = setting(20, integer(1, 1_000), "how many of the worst hosts and applications by each measure to name")
    window: float = setting(600.0, duration(60, 86_400), "how far back their growth and forecasts look")


@dataclass(frozen=True, slots=True)
class AggregatorSettings:
    """All settings of the aggregator."""

    listen: str = setting(DEFAULT_SERVER, address, "where agents and readers connect")
    listen_readers: str | None = setting(
        None, address, "where readers connect besides, without a client certificate; agents can not report there"
    )
    http: str | None = setting(
        DEFAULT_HTTP, address_or_off, "where the web page, metrics and health are served; off for nowhere"
    )
    data_dir: Path = setting(Path("/var/lib/loiter"), path, "where the store is kept")
    tokens: Path | None = setting(None, path, "file of the tokens; tokens.json in the data folder if not set")
    insecure: bool = setting(False, boolean, "off this machine, listen without encryption, or without asking who it is")
    log_format: str = setting(
        "auto", one_of(*LOG_FORMATS), "how log lines are written; auto is journal under systemd, else text"
    )
    log_level: str = setting("info", one_of("debug", "info", "warning", "error"), "least severe message to log")
    store: StoreSettings = field(default_factory=StoreSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    web: WebSettings = field(default_factory=WebSettings)
    reports: ReportSettings = field(default_factory=ReportSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
