"""The agent's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loiter.limits import (
    DEFAULT_SERVER,
    HOST_ID_PATTERN,
    MAX_INTERVAL_SECONDS,
    MAX_PROCESSES,
    MIN_INTERVAL_SECONDS,
)
from loiter.logs import LOG_FORMATS
from loiter.settings import (
    addresses,
    boolean,
    duration,
    integer,
    labels,
    matching,
    one_of,
    path,
    percentage,
    setting,
    size,
    text,
)

DEFAULT_FILE: Final = Path("/etc/loiter/agent.toml")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Table `processes`: which are reported one by one."""

    top: int = setting(
        10,
        integer(0, MAX_PROCESSES),
        "how many of the largest to report by sockets, by TIME_WAIT, by descriptors and by share",
    )
    limit: int = setting(200, integer(1, MAX_PROCESSES), "how many to report at most, CLOSE_WAIT holders first")
    arguments: bool = setting(False, boolean, "send the command lines of processes, which may hold secrets")


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Table `spool`: what is kept while no aggregator acknowledges."""

    max_bytes: int = setting(
        64_000_000,
        size(1_000_000, 100_000_000_000),
        "how much to keep on the disk; the oldest is dropped first, and counted",
    )
    max_age: float = setting(
        3 * 86_400.0,
        duration(60, 366 * 86_400),
        "how long to keep a report that no aggregator takes; after a reboot, this is counted anew",
    )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Table `tls`: whom the agent trusts, and what it shows of itself. PEM files, read again for every connection."""

    ca: Path | None = setting(
        None,
        path,
        "certificates of the authorities that aggregators are trusted by (PEM); without, those that the system trusts",
        flag="--ca",
        credential="ca.pem",
    )
    certificate: Path | None = setting(
        None, path, "certificate of this host, with its chain (PEM)", flag="--certificate", credential="certificate.pem"
    )
    key: Path | None = setting(
        None, path, "private key of that certificate (PEM, without a passphrase)", flag="--key", credential="key.pem"
    )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """All settings of the agent."""

    server: tuple[str, ...] = setting((DEFAULT_SERVER,), addresses, "aggregators to report to, tried in turn")
    interval: float = setting(10.0, duration(MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS), "time between two samples")
    state_dir: Path = setting(
        Path("/var/lib/loiter-agent"),
        path,
        "where unacknowledged reports are kept, and a host id without machine-id; of one agent alone",
    )
    insecure: bool = setting(False, boolean, "report without encryption, also to an address off this machine")
    token_file: Path | None = setting(None, path, "file with the token that allows to report", credential="token")
    cpu_budget: float = setting(
        0.02, percentage(0.1, 6_400), "share of one processor to stay below, by leaving things out"
    )
    host_id: str | None = setting(
        None, matching(HOST_ID_PATTERN, "32 lower-case hexadecimal digits"), "the host's id, if not from machine-id"
    )
    hostname: str | None = setting(
        None, matching(r"[A-Za-z0-9_.-]{1,253}", "a host name"), "the host's name, if not the kernel's"
    )
    labels: tuple[tuple[str, str], ...] = setting((), labels, "labels of this host, such as role=web", flag="--label")
    labels_file: Path | None = setting(None, path, "file of labels, a line each; those of `labels` beat it")
    labels_command: str | None = setting(
        None, text, "command that prints labels, a line each; those of `labels_file` and `labels` beat it"
    )
    log_format: str = setting(
        "auto", one_of(*LOG_FORMATS), "how log lines are written; auto is journal under systemd, else text"
    )
    log_level: str = setting("info", one_of("debug", "info", "warning", "error"), "least severe message to log")
    trace_closes: bool = setting(
        True, boolean, "trace by BPF which process closes a connection, where the agent has CAP_BPF and CAP_PERFMON"
    )
    answer_sockets: bool = setting(
        True, boolean, "answer the aggregator when it asks for single sockets ('loiter sockets')"
    )
    processes: ProcessSettings = field(default_factory=ProcessSettings)
    spool: SpoolSettings = field(default_factory=SpoolSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
