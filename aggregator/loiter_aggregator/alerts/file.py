"""The file of alerts: rules, and where alerts are pushed to."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loiter.addresses import is_loopback
from loiter.settings import check_distinct, check_number, load_tables
from loiter_aggregator.alerts.kinds import KINDS, Kind
from loiter_aggregator.alerts.rule import Rule
from loiter_aggregator.alerts.settings import AlertmanagerSettings, DefaultSettings, EvaluationSettings, RuleSettings
from loiter_aggregator.receivers import read_secret, trust

_MAX_RULES: Final = 100
_MAX_RECEIVERS: Final = 10
_MIN_FIT: Final = 0.9

# What loiter comes with: rules of their names change what they say, and have the rest from here.
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
    for name, most in (("rule", _MAX_RULES), ("alertmanager", _MAX_RECEIVERS), ("defaults", 1), ("settings", 1)):
        check_number(tables[name], most)
    check_distinct(tables["rule"], "name")
    check_distinct(tables["alertmanager"], "url")
    for receiver in tables["alertmanager"]:
        _check_receiver(receiver)
    own = {one.name: one for one in DEFAULT_RULES}
    given = {one.name: _completed(one, own.get(one.name)) for one in tables["rule"]}
    wanted = (own if all(one.enabled for one in tables["defaults"]) else {}) | given
    # Those that are not in force are read, too: a mistake in one is not for the day that somebody enables it.
    rules = {name: _rule(one) for name, one in wanted.items()}
    return AlertFile(
        tuple(rules[name] for name, one in wanted.items() if one.enabled),
        tuple(tables["alertmanager"]),
        _checked(next(iter(tables["settings"]), EvaluationSettings())),
    )


def _completed(given: RuleSettings, own: RuleSettings | None) -> RuleSettings:
    """A rule with what it does not say, as loiter's own of its name has it; one of another kind has it all itself."""
    if own is None or given.kind not in (None, own.kind):
        return given
    said = {one.name for one in fields(given) if one.name.rstrip("_") in given.where.settings}
    return replace(own, where=given.where, **{name: getattr(given, name) for name in said})


def _rule(given: RuleSettings) -> Rule:
    if given.kind is None:
        raise given.where.wrong(f"it has to be set: one of {', '.join(KINDS)}", "kind")
    kind = KINDS[given.kind]
    other = "below" if kind.worse == "above" else "above"
    if getattr(given, other) is not None:
        raise given.where.wrong(f"a rule of the kind {kind.name} has {kind.worse}", other)
    if getattr(given, kind.worse) is None:
        raise given.where.wrong(f"it has to be set: what is too bad for a rule of the kind {kind.name}", kind.worse)
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
    with given.where.reading(name):
        return float(kind.read(getattr(given, name)))


def _clear(kind: Kind, given: RuleSettings, threshold: float) -> float:
    if given.clear is None:
        return threshold if kind.slack is None else kind.slack * threshold
    clear = _read(kind, given, "clear")
    if (clear > threshold) if kind.worse == "above" else (clear < threshold):
        raise given.where.wrong(f"{given.clear!r} is worse than {kind.worse}", "clear")
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
            raise given.where.wrong(f"a rule of the kind {kind.name} has no use for it; leave it out", name)


def _checked(settings: EvaluationSettings) -> EvaluationSettings:
    if settings.expires < 2 * settings.resend:
        raise settings.where.wrong("less than two times resend; an alert would end between pushes", "expires")
    return settings


def _check_receiver(given: AlertmanagerSettings) -> None:
    if (given.user is None) != (given.password_file is None):
        raise given.where.wrong("user and password_file go together")
    if given.user is not None and given.token_file is not None:
        raise given.where.wrong("there is a user already; choose one of the two", "token_file")
    secret, about = (given.token_file, "token_file") if given.token_file else (given.password_file, "password_file")
    parts = urlsplit(given.url)
    if secret is not None and parts.scheme == "http" and not (given.insecure or is_loopback(f"{parts.hostname}:0")):
        raise given.where.wrong(
            "a secret would go over the network in the clear; take https, or set insecure = true", "url"
        )
    if secret is not None:
        with given.where.reading(about):
            read_secret(secret)
    with given.where.reading("ca"):
        trust(given.ca)
