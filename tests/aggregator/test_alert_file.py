"""The file of alerts: what it may say, what loiter's own rules are, and how mistakes are shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from loiter.settings import SettingsError, entries
from loiter_aggregator.alerts.file import AlertFile, load_alerts
from loiter_aggregator.alerts.settings import AlertmanagerSettings, EvaluationSettings, RuleSettings
from support.programs import ROOT


def _load(folder: Path, text: str) -> AlertFile:
    file = folder / "alerts.toml"
    file.write_text(text)
    return load_alerts(file)


RULE = '[[rule]]\nname = "leak"\nkind = "close-wait-growth"\n'
FD = '[[rule]]\nname = "fd"\nkind = "fd-eta"\n'
AM = '[[alertmanager]]\nurl = "http://127.0.0.1:9093"\n'


def test_without_a_file_loiters_own_rules_are_in_force() -> None:
    """Pushed nowhere."""
    found = load_alerts(None)
    assert [(rule.name, rule.severity, rule.summary) for rule in found.rules] == [
        (
            "close-wait-growth",
            "warning",
            "CLOSE_WAIT of a process grows by 60 sockets an hour or more, with an r² of 0.90 or more, within 15m, "
            "for 10m",
        ),
        ("fd-eta", "critical", "file descriptors of a process are used up in 4h or less, within 15m, for 5m"),
        ("ports", "warning", "80.0 % of the ephemeral ports to one destination or more are in use, within 5m, for 2m"),
        (
            "time-wait-overflow",
            "warning",
            "1 TIME_WAIT sockets or more are destroyed for want of room, within 5m",
        ),
        ("host-silent", "warning", "no report comes for 5m or longer"),
    ]
    assert found.receivers == ()


def test_an_empty_file_is_as_none(tmp_path: Path) -> None:
    assert _load(tmp_path, "") == load_alerts(None)


def test_the_example_that_is_shipped_can_be_read() -> None:
    """It says what is the default, and a rule and a receiver besides."""
    found = load_alerts(ROOT / "deploy/alerts.example.toml")
    assert {rule.name for rule in load_alerts(None).rules} <= {rule.name for rule in found.rules}
    assert found.receivers


@pytest.mark.parametrize("table", [RuleSettings, EvaluationSettings, AlertmanagerSettings])
def test_every_setting_has_a_row_in_the_guide_with_its_default(table: type[object]) -> None:
    """Where its default depends on nothing."""
    guide = (ROOT / "docs/operate/alerts.md").read_text()
    rows = {
        name: default
        for names, default in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|([^|]*)\|", guide, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    for entry in entries(table):
        shown = rows[entry.name].strip()
        if shown and shown not in ("by kind", "the system's"):
            value = float(shown) if entry.name == "min_fit" else shown
            assert entry.read(value) == (0.9 if entry.name == "min_fit" else entry.default), entry.name


def test_a_rule_called_as_one_of_loiters_own_changes_what_it_says(tmp_path: Path) -> None:
    """And nothing else, neither of it nor of the others, where it stands alone or where the others are dropped."""
    file = '[[rule]]\nname = "fd-eta"\nbelow = "1h"\nfor = "0s"\n'
    default = {rule.name: rule for rule in load_alerts(None).rules}
    changed = replace(default["fd-eta"], threshold=3_600.0, clear=4_500.0, for_=0.0)
    assert changed.severity == "critical"
    found = _load(tmp_path, file).rules
    assert {rule.name: rule for rule in found} == default | {"fd-eta": changed}
    assert _load(tmp_path, f"[defaults]\nenabled = false\n{file}").rules == (changed,)


def test_a_rule_of_another_kind_has_nothing_from_loiters_own(tmp_path: Path) -> None:
    """What is there would not fit it."""
    file = '[[rule]]\nname = "fd-eta"\nkind = "stuck"\nabove = 5\n'
    rule = next(rule for rule in _load(tmp_path, file).rules if rule.name == "fd-eta")
    assert (rule.kind.name, rule.threshold, rule.severity) == ("stuck", 5.0, "warning")


def test_a_rule_of_the_same_name_may_say_everything(tmp_path: Path) -> None:
    """The others stay."""
    found = _load(tmp_path, '[[rule]]\nname = "ports"\nkind = "ports"\nabove = "95%"\nclear = "50%"\nfor = "0s"\n')
    ports = next(rule for rule in found.rules if rule.name == "ports")
    assert (ports.threshold, ports.clear, ports.for_) == (0.95, 0.5, 0.0)
    assert len(found.rules) == 5


def test_rules_can_be_dropped(tmp_path: Path) -> None:
    """All of loiter's own, or one by its name."""
    assert _load(tmp_path, "[defaults]\nenabled = false\n").rules == ()
    silent = '[[rule]]\nname = "host-silent"\nenabled = false\n'
    assert "host-silent" not in [rule.name for rule in _load(tmp_path, silent).rules]


def test_where_a_broken_rule_is_kept_again_depends_on_its_kind(tmp_path: Path) -> None:
    """A fifth below what is too much, a quarter above what is too little."""
    found = _load(tmp_path, f'[defaults]\nenabled = false\n{RULE}above = 100\n{FD}below = "4h"\n')
    assert [rule.clear for rule in found.rules] == [80.0, 5 * 3_600.0]


def test_everything_that_a_rule_may_say_is_read(tmp_path: Path) -> None:
    found = _load(
        tmp_path,
        f"""{RULE}above = 10.5
clear = 2
min_fit = 0.5
window = "1m"
for = "2s"
keep_for = "0s"
severity = "critical"
labels = {{ role = "web" }}
apps = ["order-api*", "order-[1]?"]
except_apps = ["order-test"]
add_labels = {{ team = "payments" }}
""",
    )
    rule = found.rules[-1]
    assert (rule.threshold, rule.clear, rule.min_fit, rule.window) == (10.5, 2.0, 0.5, 60.0)
    assert (rule.for_, rule.keep_for, rule.severity) == (2.0, 0.0, "critical")
    assert (rule.labels, rule.add_labels) == ((("role", "web"),), (("team", "payments"),))
    about = {"order-api": True, "order-[1]?": True, "order-test": False, "order-x": False, "billing": False}
    assert {app: rule.is_about(app) for app in about} == about


WRONG = {
    "unknown table": ("[[ruel]]\n", "1: ruel: unknown table; did you mean rule?"),
    "unknown table further down": (f"{RULE}above = 1\n\n[[ruel]]\n", "6: ruel: unknown table"),
    "a table within brackets": ('rule = [{ kind = "ports" }]\n', "1: name: it has to be set"),
    "a table within brackets further down": (f'# ours\nsettings = {{ every = "1d" }}\n{RULE}above = 1\n', "2: every:"),
    "too long a duration": (f'{RULE}above = 1\nfor = "400d"\n', "5: for: '400d' is not between 0s and 31d"),
    "too short a duration": ('[settings]\nevery = "1ms"\n', "2: every: '1ms' is not between 500ms and 1h"),
    "labels in a table of their own": (f"{RULE}above = 1\n[rule.labels]\na = 1\n", "5: labels: label a is not"),
    "another API": ('[[alertmanager]]\nurl = "http://am:1/api/v1/alerts"\n', "2: url: not the address of an"),
    "unknown setting": (f"{RULE}abov = 1\n", "4: abov: unknown setting; did you mean above?"),
    "no kind": ('[[rule]]\nname = "a"\n', "1: kind: it has to be set: one of close-wait-growth, stuck"),
    "bad kind": ('[[rule]]\nname = "a"\nkind = "b"\n', "3: kind: 'b' is not one of close-wait-growth, stuck, fd-eta"),
    "bad name": ('[[rule]]\nname = "a b"\nkind = "ports"\n', "2: name: 'a b' is not a name"),
    "no threshold": (RULE, "1: above: it has to be set: what is too bad for a rule of the kind close-wait-growth"),
    "wrong threshold": (f'{RULE}above = "4h"\n', "4: above: '4h' is not a number"),
    "threshold too low": (f"{RULE}above = 0\n", "4: above: 0 is not between 1 and 1,000,000,000"),
    "no duration": (f"{FD}below = 4\n", "4: below: 4 is not a duration"),
    "no percentage": ('[[rule]]\nname = "p"\nkind = "ports"\nabove = 0.8\n', "4: above: 0.8 is not a percentage"),
    "above for below": (f"{FD}above = 4\n", "4: above: a rule of the kind fd-eta has below"),
    "below for above": (f"{RULE}below = 4\n", "4: below: a rule of the kind close-wait-growth has above"),
    "clear above": (f"{RULE}above = 10\nclear = 20\n", "5: clear: 20 is worse than above"),
    "clear below": (f'{FD}below = "4h"\nclear = "1h"\n', "5: clear: '1h' is worse than below"),
    "useless fit": (f'{FD}below = "4h"\nmin_fit = 0.5\n', "5: min_fit: a rule of the kind fd-eta has no use for it"),
    "useless window": (
        '[[rule]]\nname = "s"\nkind = "host-silent"\nabove = "5m"\nwindow = "5m"\n',
        "5: window: a rule of the kind host-silent has no use for it",
    ),
    "useless apps": (
        '[[rule]]\nname = "p"\nkind = "ports"\nabove = "80%"\napps = ["a"]\n',
        "5: apps: a rule of the kind ports has no use for it",
    ),
    "bad fit": (f"{RULE}above = 1\nmin_fit = 2\n", "5: min_fit: 2 is not a number from 0 to 1"),
    "no patterns": (f'{RULE}above = 1\napps = "a"\n', "5: apps: 'a' is not a list of 1 to 100 names"),
    "own label": (f'{RULE}above = 1\nadd_labels = {{ app = "a" }}\n', "5: add_labels: 'app' can not be added"),
    "label of no prometheus": (f'{RULE}above = 1\nadd_labels = {{ a-b = "a" }}\n', "5: add_labels: 'a-b' can not"),
    "twice": (f"{RULE}above = 1\n{RULE}above = 2\n", "6: name: leak is there twice; give each [[rule]] its own"),
    "a mistake in what is off": (f"{RULE}enabled = false\n", "1: above: it has to be set"),
    "two settings": ("[[settings]]\n[[settings]]\n", "2: [[settings]]: more than 1 of these tables"),
    "expires too soon": ('[settings]\nresend = "1m"\nexpires = "90s"\n', "3: expires: less than two times resend"),
    "no url": ("[[alertmanager]]\n", "1: url: it has to be set"),
    "bad url": ('[[alertmanager]]\nurl = "am:9093"\n', "2: url: not an address such as http://127.0.0.1:9093"),
    "bad port": ('[[alertmanager]]\nurl = "http://am:99999"\n', "2: url: not an address"),
    "a query": ('[[alertmanager]]\nurl = "http://am:1/?a=b"\n', "2: url: not an address"),
    "the same twice": (AM + AM.replace("9093", "9093/"), "4: url: http://127.0.0.1:9093 is there twice"),
    "half a login": (f'{AM}user = "loiter"\n', "1: [[alertmanager]]: user and password_file go together"),
    "no ca": (f'{AM}ca = "/nonexistent"\n', "3: ca: cannot read /nonexistent: No such file or directory"),
    "no token": (
        f'{AM}token_file = "/nonexistent"\n',
        "3: token_file: cannot read /nonexistent: No such file or directory",
    ),
    "too short a window": (f'{RULE}above = 1\nwindow = "29s"\n', "5: window: '29s' is too short to know anything by"),
    "no toml": ("[[rule", "1: not valid TOML: Expected ']]'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_said_with_file_and_line(tmp_path: Path, name: str) -> None:
    text, said = WRONG[name]
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'alerts.toml'}:{said}")


@pytest.mark.parametrize("behind", ["", "/", "/api/v2/alerts", "/api/v2/alerts/", "/api/v2"])
def test_the_address_may_be_that_of_the_api(tmp_path: Path, behind: str) -> None:
    """As other programs are told it. What is in front of that is a prefix, whatever it is called."""
    for address in ("http://127.0.0.1:9093", "http://127.0.0.1:9093/alerts"):
        file = f'[[alertmanager]]\nurl = "{address}{behind}"\n'
        assert [one.url for one in _load(tmp_path, file).receivers] == [address]


def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no place for a password") as caught:
        _load(tmp_path, '[[alertmanager]]\nurl = "https://loiter:s3cret@am:9093"\n')
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://192.168.1.300:9093", "http://[fe80::1", "http://am:99999"])
def test_an_address_that_nothing_can_be_at_is_refused(tmp_path: Path, url: str) -> None:
    """When the aggregator starts, and not when the first alert is to be pushed."""
    with pytest.raises(SettingsError, match=r"alerts\.toml:2: url: .*not an address such as"):
        _load(tmp_path, f'[[alertmanager]]\nurl = "{url}"\n')


def test_a_secret_does_not_go_over_the_network_in_the_clear_unless_told(tmp_path: Path) -> None:
    """On this machine it may."""
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    off = f'[[alertmanager]]\nurl = "http://am.example:9093"\ntoken_file = "{secret}"\n'
    with pytest.raises(SettingsError, match="in the clear"):
        _load(tmp_path, off)
    for good in (f"{off}insecure = true\n", off.replace("http:", "https:"), f'{AM}token_file = "{secret}"\n'):
        assert _load(tmp_path, good).receivers[0].token_file == secret


def test_a_token_with_a_line_break_is_refused_without_being_shown(tmp_path: Path) -> None:
    """It would forge a header."""
    secret = tmp_path / "token"
    secret.write_text("s3cret\nX-Evil: 1\n")
    with pytest.raises(SettingsError, match="holds no secret") as caught:
        _load(tmp_path, f'{AM}token_file = "{secret}"\n')
    assert "s3cret" not in str(caught.value)
