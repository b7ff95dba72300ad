"""What `loiter-agent install` and `uninstall` want of a host, and how a delivery is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loiter.service_install.errors import InstallError
from loiter.service_install.steps import FoundFile
from loiter.service_install.units import make_unit
from loiter.transport import Security
from loiter_agent.config import AgentSettings
from loiter_agent.install import installing
from loiter_agent.install.credentials import read_credentials
from loiter_agent.install.installing import unacknowledged
from loiter_agent.install.places import BACKUP_FILE, CREDSTORE, DROP_INS, STATE, STATE_LINK, UNIT_FILE, credential
from loiter_agent.install.removal import removal
from loiter_agent.install.verify import Delivery, is_delivering, wait_for_delivery
from loiter_agent.install.wanted import Request, asked_values, wanted
from loiter_agent.probe import Probe, Verdict
from loiter_agent.status import Status
from support.certificates import LONG_AGO, Pki, self_signed
from support.statuses import STATUS

CONFIG = Path("/etc/loiter/agent.toml")
SHIPPED = "[Service]\nExecStart=/usr/bin/loiter-agent run\n"
COMMAND = ("/opt/loiter/bin/loiter-agent",)
OURS = FoundFile(make_unit(SHIPPED, "/usr/bin/loiter-agent", COMMAND, "loiter-agent install"), 0o644)
THEIRS = FoundFile(b"[Service]\nExecStart=/mine\n", 0o644)


def test_flags_become_settings_of_the_file() -> None:
    values = asked_values(["a:1,b:2", "c:3"], "5s", [("role", "web")], "/etc/loiter/labels", True)
    assert values == {
        ("server",): ["a:1", "b:2", "c:3"],
        ("interval",): "5s",
        ("insecure",): True,
        ("labels_file",): "/etc/loiter/labels",
        ("labels", "role"): "web",
    }
    assert asked_values(None, None, [], None, None) == {}


def test_a_new_host_gets_settings_credentials_drop_ins_and_the_unit() -> None:
    request = Request(
        SHIPPED,
        COMMAND,
        values={("server",): ["a:1"]},
        credentials={"token": b"hush\n"},
        drop_ins={"namespaces": "[Service]\n"},
    )
    goal = wanted(request, {})
    assert [(str(file.file), file.mode, file.secret) for file in goal.files] == [
        ("/etc/loiter/agent.toml", 0o644, False),
        ("/etc/credstore/loiter-agent.token", 0o600, True),
        ("/etc/systemd/system/loiter-agent.service.d/namespaces.conf", 0o644, False),
        ("/etc/systemd/system/loiter-agent.service", 0o644, False),
    ]
    assert [(str(folder.folder), folder.mode) for folder in goal.folders] == [
        ("/etc/loiter", 0o755),
        ("/etc/credstore", 0o700),
        ("/etc/systemd/system/loiter-agent.service.d", 0o755),
    ]
    assert "hush" not in repr(goal)


def test_beside_a_package_no_unit_is_written_and_ours_of_before_goes() -> None:
    request = Request("", COMMAND, packaged=True)
    assert UNIT_FILE not in {file.file for file in wanted(request, {}).files}
    assert wanted(request, {UNIT_FILE: OURS}).absent == (UNIT_FILE,)
    assert wanted(request, {UNIT_FILE: THEIRS}).absent == ()


def test_a_certificate_takes_the_place_of_a_token_and_the_other_way_round() -> None:
    pair = {"certificate.pem": b"c", "key.pem": b"k"}
    for given, gone in (
        (pair, ("token",)),
        ({"token": b"t"}, ("certificate.pem", "key.pem")),
        ({**pair, "token": b"t"}, ()),
        ({"ca.pem": b"a"}, ()),
    ):
        assert wanted(Request(SHIPPED, COMMAND, credentials=given), {}).absent == tuple(map(credential, gone))


def test_what_goes_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ca.pem", "token"):
        (tmp_path / name).touch()
    tried: list[Security] = []

    def probe(server: str, security: Security) -> Probe:
        tried.append(security)
        return Probe(server, Verdict.ADMITTED, "")

    monkeypatch.setattr(installing, "credential", lambda name: tmp_path / name)
    monkeypatch.setattr(installing, "probe", probe)
    given = {"certificate.pem": Path("c"), "key.pem": Path("k"), "ca.pem": None, "token": None}
    installing._probe_servers(AgentSettings(), given, False)
    assert tried == [Security(ca=tmp_path / "ca.pem", certificate=Path("c"), key=Path("k"))]


def test_a_file_of_labels_that_others_can_change_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "labels"
    monkeypatch.setattr(installing, "unreachable", lambda *_: None)
    installing._check_labels_file(file)
    file.touch()
    file.chmod(0o666)
    with pytest.raises(InstallError, match="can be changed by others than root"):
        installing._check_labels_file(file)


def test_a_unit_made_by_hand_is_replaced_only_by_force() -> None:
    with pytest.raises(InstallError, match="--force replaces it"):
        wanted(Request(SHIPPED, COMMAND), {UNIT_FILE: THEIRS})
    files = {
        file.file: file.content for file in wanted(Request(SHIPPED, COMMAND, force=True), {UNIT_FILE: THEIRS}).files
    }
    assert files[BACKUP_FILE] == THEIRS.content
    assert files[UNIT_FILE] == OURS.content


def test_uninstall_takes_what_install_made_and_leaves_the_rest() -> None:
    edited, own = DROP_INS / "override.conf", DROP_INS / "namespaces.conf"
    found = dict.fromkeys((CONFIG, credential("token"), edited, own, BACKUP_FILE), FoundFile(b"", 0o644))
    folders = {DROP_INS, CREDSTORE, STATE, STATE_LINK, CONFIG.parent}
    there = {UNIT_FILE: OURS, **found}
    gone = removal(there, folders, {STATE_LINK}, {"namespaces.conf"}, purge=False)
    assert set(gone.files) == {UNIT_FILE, own}
    assert gone.trees == ()
    assert gone.folders == (DROP_INS,)
    purged = removal(there, folders, {STATE_LINK}, {"namespaces.conf"}, purge=True)
    assert set(purged.files) == {UNIT_FILE, own, edited, credential("token"), CONFIG, STATE_LINK}
    assert purged.trees == (STATE,)
    assert purged.folders == (DROP_INS, CREDSTORE, CONFIG.parent)


def test_a_unit_made_by_hand_is_not_removed_but_by_a_purge() -> None:
    with pytest.raises(InstallError, match="was not written by 'loiter-agent install'"):
        removal({UNIT_FILE: THEIRS}, (), (), (), purge=False)
    assert removal({UNIT_FILE: THEIRS}, (), (), (), purge=True).files == (UNIT_FILE,)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """An authority of the aggregator."""
    return Pki(tmp_path_factory.mktemp("ca"))


def test_credentials_are_read_as_they_are_to_be_installed(pki: Pki, tmp_path: Path) -> None:
    own = pki.agent("web-1")
    token = tmp_path / "token"
    token.write_text(f"loiter_0123abcd_{'0' * 64}\nand more\n")
    token.chmod(0o600)
    read = read_credentials({"ca.pem": own.ca, "certificate.pem": own.certificate, "key.pem": own.key, "token": token})
    assert own.key is not None
    assert read["key.pem"] == own.key.read_bytes()
    assert read["token"] == f"loiter_0123abcd_{'0' * 64}\n".encode()
    assert read_credentials({"ca.pem": None, "token": None}) == {}


def test_credentials_that_can_not_work_are_refused_before_anything_is_written(pki: Pki, tmp_path: Path) -> None:
    own, expired = pki.agent("web-1"), pki.agent("web-2", ago=LONG_AGO)
    _, other_key = self_signed(tmp_path, "other")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    missing = tmp_path / "missing"
    for files, said in (
        ({"certificate.pem": own.certificate}, "come together"),
        ({"certificate.pem": own.certificate, "key.pem": other_key}, "the key does not fit"),
        ({"certificate.pem": expired.certificate, "key.pem": expired.key}, "has expired on"),
        ({"ca.pem": broken}, "no certificate in PEM that can be read"),
        ({"ca.pem": own.key}, "does not hold a certificate"),
        ({"token": own.ca}, "its first line is not a token"),
        ({"token": missing}, "cannot read .*missing"),
    ):
        with pytest.raises(InstallError, match=said):
            read_credentials(files)
    with pytest.raises(InstallError, match=r"is not valid before .* clock right"):
        read_credentials({"ca.pem": own.ca}, datetime.now(UTC) - timedelta(days=1))


@pytest.mark.parametrize(
    ("status", "main_pid", "now", "delivering"),
    [
        (STATUS, 42, 1_005.0, True),
        (STATUS, 42, 1_040.0, True),
        (STATUS, 42, 1_041.0, False),
        (STATUS, 43, 1_005.0, False),
        (replace(STATUS, connected=False), 42, 1_005.0, False),
        (replace(STATUS, last_acknowledged_at=None), 42, 1_005.0, False),
    ],
)
def test_only_the_running_agent_that_had_a_report_acknowledged_of_late_delivers(
    status: Status, main_pid: int, now: float, delivering: bool
) -> None:
    assert is_delivering(status, main_pid, now) is delivering
    assert is_delivering(status, main_pid, now, STATUS.version) is delivering
    assert not is_delivering(status, main_pid, now, "another")


def test_a_delivery_is_waited_for_until_the_time_is_over(tmp_path: Path) -> None:
    """By a clock that goes on where somebody sleeps. The status comes after two seconds."""
    file, clock = tmp_path / "status.json", [1_000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] == 1_002.0:
            STATUS.write(file)

    def wait(timeout: float) -> bool:
        clock[0] = 1_000.0
        file.unlink(missing_ok=True)
        now = lambda: clock[0]  # noqa: E731 - one clock in two places
        return wait_for_delivery(file, lambda: 42, timeout, None, now, now, sleep).acknowledged

    assert wait(60.0)
    assert clock[0] == 1_002.0
    assert not wait(1.0)
    assert clock[0] == 1_001.0


def test_why_nothing_was_acknowledged_is_said_and_can_not_command_a_terminal() -> None:
    status = replace(STATUS, connected=False, error="\x1b[2J")
    assert f"{status.server}: \\x1b[2J\n" in unacknowledged(Delivery(False, status), 1.0, STATUS.version)
    old = unacknowledged(Delivery(False, status), 1.0, "9.9.9")
    assert f"what runs is version {STATUS.version}, and this is 9.9.9\n" in old
