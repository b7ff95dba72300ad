"""The file of alerts: rules, and where alerts are pushed to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from loiter.addresses import is_loopback
from loiter.settings import SettingsError, load_tables
from loiter_aggregator.alerts.kinds import KINDS, Kind
from loiter_aggregator.alerts.rule import Rule
from loiter_aggregator.alerts.settings import AlertmanagerSettings, DefaultSettings, EvaluationSettings, RuleSettings
from loiter_aggregator.receivers import read_secret, trust

_MAX_RULES: Final = 100
_MAX_RECEIVERS: Final = 10
_MIN_FIT: Final = 0.9

# What loiter comes with.
DEFAULT_RULES: Final = (
    RuleSettings(name="close-wait-growth", kind="close-wait-growth", above=60),
    RuleSettings(name="fd-eta", kind="fd-eta", below="4h", severity="critical"),
    RuleSettings(name="ports", kind="ports", above="80%"),
    RuleSettings(name="time-wait-overflow", kind="time-wait-overflow", above=1),
    RuleSettings(name="host-silent", kind="host-silent", above="5m"),
)


@dataclass(frozen=True, slots=True)
class AlertFile:
    """What a file says; without one, the rules that loiter comes with, pushed nowhere."""

    rules: tuple[Rule, ...]
    receivers: tuple[AlertmanagerSettings, ...] = ()
    settings: EvaluationSettings = EvaluationSettings()


def load_alerts(file: Path | None) -> AlertFile:
    """Reads a file of alerts. Raises SettingsError, whose message says where in the file and what would be right."""
    if file is None:
        return AlertFile(tuple(_rule(one) for one in DEFAULT_RULES))
    kinds = {
        "rule": RuleSettings,
        "defaults": DefaultSettings,
        "alertmanager": AlertmanagerSettings,
        "settings": EvaluationSettings,
    }
    tables = load_tables(file, kinds)
    _check_number("rule", tables["rule"], _MAX_RULES)
    _check_number("alertmanager", tables["alertmanager"], _MAX_RECEIVERS)
    for name in ("defaults", "settings"):
        _check_number(name, tables[name], 1)
    _check_distinct("rule", "name", tables["rule"])
    _check_distinct("alertmanager", "url", tables["alertmanager"])
    for receiver in tables["alertmanager"]:
        _check_receiver(receiver)
    given = {one.name: one for one in tables["rule"]}
    own = DEFAULT_RULES if all(one.enabled for one in tables["defaults"]) else ()
    wanted = {one.name: one for one in own} | given
    # Those that are not in force are read, too: a mistake in one is not for the day that somebody enables it.
    rules = {name: _rule(one) for name, one in wanted.items()}
    return AlertFile(
        tuple(rules[name] for name, one in wanted.items() if one.enabled),
        tuple(tables["alertmanager"]),
        _checked(next(iter(tables["settings"]), EvaluationSettings())),
    )


def _rule(given: RuleSettings) -> Rule:
    kind = KINDS[given.kind]
    other = "below" if kind.worse == "above" else "above"
    if getattr(given, other) is not None:
        raise SettingsError(f"{given.where.of(other)}: {other}: a rule of the kind {kind.name} has {kind.worse}")
    if getattr(given, kind.worse) is None:
        raise SettingsError(
            f"{given.where}: {kind.worse} is missing: what is too bad for a rule of the kind {kind.name}"
        )
    threshold = _read(kind, given, kind.worse)
    _check_kind(kind, given)
    return Rule(
        name=given.name,
        kind=kind,
        threshold=threshold,
        clear=_clear(kind, given, threshold),
        min_fit=(_MIN_FIT if given.min_fit is None else given.min_fit) if kind.fits else 0.0,
        window=kind.window if given.window is None else given.window,
        for_=kind.for_ if given.for_ is None else given.for_,
        keep_for=given.keep_for,
        severity=given.severity,
        labels=given.labels,
        apps=given.apps,
        except_apps=given.except_apps,
        add_labels=given.add_labels,
    )


def _read(kind: Kind, given: RuleSettings, name: str) -> float:
    try:
        return float(kind.read(getattr(given, name)))
    except ValueError as error:
        raise SettingsError(f"{given.where.of(name)}: {name}: {error}") from None


def _clear(kind: Kind, given: RuleSettings, threshold: float) -> float:
    if given.clear is None:
        return threshold if kind.slack is None else kind.slack * threshold
    clear = _read(kind, given, "clear")
    if (clear > threshold) if kind.worse == "above" else (clear < threshold):
        raise SettingsError(f"{given.where.of('clear')}: clear: {given.clear!r} is worse than {kind.worse}")
    return clear


def _check_kind(kind: Kind, given: RuleSettings) -> None:
    """Raises SettingsError where a rule has a setting that its kind has no use for."""
    useless = (
        ("clear", given.clear is not None and kind.slack is None),
        ("min_fit", given.min_fit is not None and not kind.fits),
        ("window", given.window is not None and kind.by is None),
        ("apps", given.apps and kind.about != "app"),
        ("except_apps", given.except_apps and kind.about != "app"),
    )
    for name, is_given in useless:
        if is_given:
            raise SettingsError(
                f"{given.where.of(name)}: {name}: a rule of the kind {kind.name} has no use for it; leave it out"
            )


def _check_number(kind: str, tables: list[Any], most: int) -> None:
    if len(tables) > most:
        raise SettingsError(f"{tables[most].where}: {kind}: more than {most} of these tables")


def _check_distinct(kind: str, name: str, tables: Iterable[Any]) -> None:
    seen: set[str] = set()
    for table in tables:
        value = getattr(table, name)
        if value in seen:
            raise SettingsError(f"{table.where.of(name)}: {name}: {value} is there twice; give each [[{kind}]] its own")
        seen.add(value)


def _checked(settings: EvaluationSettings) -> EvaluationSettings:
    if settings.expires < 2 * settings.resend:
        raise SettingsError(
            f"{settings.where.of('expires')}: expires: less than two times resend; an alert would end between pushes"
        )
    return settings


def _check_receiver(given: AlertmanagerSettings) -> None:
    if (given.user is None) != (given.password_file is None):
        raise SettingsError(f"{given.where}: user and password_file go together")
    if given.user is not None and given.token_file is not None:
        raise SettingsError(
            f"{given.where.of('token_file')}: token_file: there is a user already; choose one of the two"
        )
    secret = given.token_file or given.password_file
    parts = urlsplit(given.url)
    if secret is not None and parts.scheme == "http" and not (given.insecure or is_loopback(f"{parts.hostname}:0")):
        raise SettingsError(
            f"{given.where.of('url')}: url: a secret would go over the network in the clear; take https, or set "
            "insecure = true"
        )
    about = "password_file" if given.token_file is None else "token_file"
    try:
        if secret is not None:
            read_secret(secret)
        about = "ca"
        trust(given.ca)
    except ValueError as error:
        raise SettingsError(f"{given.where.of(about)}: {about}: {error}") from None
