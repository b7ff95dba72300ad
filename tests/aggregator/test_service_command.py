"""What `loiter service install` wants of a host, and the secrets that it makes in a folder that stands for one."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from loiter.service_install.errors import InstallError
from loiter.service_install.look import found_files
from loiter.service_install.plan import apply, apply_forward, removal_plan
from loiter.service_install.steps import FoundFile, MakeFolder, Run, Step, StepFailed
from loiter.service_install.systemd import ServiceState
from loiter_aggregator.access import tokens
from loiter_aggregator.access.principal import Right
from loiter_aggregator.alerts.memory import FILE, Memory, remember
from loiter_aggregator.commands import loiter
from loiter_aggregator.config import AggregatorSettings, TlsSettings
from loiter_aggregator.install.installing import _door, check_data_dir, check_data_dir_is_seen
from loiter_aggregator.install.next_steps import next_steps, tokens_gone
from loiter_aggregator.install.places import (
    AUTHORITY,
    AUTHORITY_REVOKED,
    CREDSTORE,
    DATA_DIR_DROP_IN,
    FOLDER,
    INGEST_TOKEN,
    READ_TOKEN,
    REVOKED,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    TRUST,
    credential,
)
from loiter_aggregator.install.secrets import (
    hand_out_authority,
    make_authority,
    make_server_certificate,
    make_token,
    names_in,
    names_to_certify,
)
from loiter_aggregator.install.uninstalling import store_removal
from loiter_aggregator.install.user import is_service_user
from loiter_aggregator.install.wanted import Present, Request, asked_values, check_names, wanted
from loiter_aggregator.reports.state import ReportState
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.web.sessions import signing_key
from support.certificates import self_signed

SHIPPED = "[Service]\nExecStart=/usr/bin/loiter serve\n"
SYSUSERS = '# The user.\nu loiter - "loiter aggregator" /var/lib/loiter\n'
LOCAL = Request(SHIPPED, SYSUSERS, ("/opt/loiter/bin/loiter",), AggregatorSettings())
OPEN = replace(LOCAL, settings=AggregatorSettings(listen="0.0.0.0:7433"))
NOTHING = Present({}, user=False, data_dir=False)
NOW = datetime.now(UTC)


def titles(steps: tuple[Step, ...]) -> list[str]:
    """What each does, in a line."""
    return [step.describe().splitlines()[0] for step in steps]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with the folders that a plan makes first."""
    for folder in (AUTHORITY, CREDSTORE, Path("/var/lib/loiter")):
        (tmp_path / folder.relative_to("/")).mkdir(parents=True)
    return tmp_path


def test_for_this_machine_alone_no_secrets_are_made() -> None:
    goal = wanted(LOCAL, NOTHING, NOW)
    assert titles(goal.prepare) == [
        """run systemd-sysusers --inline 'u loiter - "loiter aggregator" /var/lib/loiter'""",
        "make folder /var/lib/loiter (0700, owned by loiter)",
    ]
    assert [str(file.file) for file in goal.files] == [
        "/etc/loiter/aggregator.toml",
        "/etc/systemd/system/loiter-aggregator.service",
    ]
    assert wanted(LOCAL, Present({}, user=True, data_dir=True), NOW).prepare == ()


def test_with_a_name_it_is_open_to_others_and_everything_to_get_in_is_made() -> None:
    assert asked_values(None, None, None, None, ["a.example"]) == {
        ("listen",): "0.0.0.0:7433",
        ("http",): "0.0.0.0:7434",
    }
    assert asked_values(None, None, None, None, ["a.example"], ["listen", "http"]) == {}
    assert asked_values(None, None, "off", None, ["a.example"], ["listen"]) == {("http",): "off"}
    goal = wanted(replace(OPEN, names=["a.example", "10.0.0.1"]), NOTHING, NOW)
    assert titles(goal.prepare)[2:] == [
        "make a private authority in /etc/loiter/ca",
        "make a certificate for a.example, 10.0.0.1 in /etc/credstore/loiter-aggregator.certificate.pem",
        "write /etc/loiter/ca.pem, by which agents and readers trust the aggregator",
        "make token fleet, which allows to ingest, in /etc/loiter/ingest.token",
        "make token operator, which allows to read, in /etc/loiter/read.token",
    ]
    assert MakeFolder(AUTHORITY, 0o700) in goal.folders


def test_open_to_others_without_encryption_is_refused_unless_it_is_asked_for() -> None:
    with pytest.raises(InstallError, match="nothing would be encrypted: give --name"):
        wanted(OPEN, NOTHING, NOW)
    insecure = replace(OPEN, settings=replace(OPEN.settings, insecure=True))
    assert len(wanted(insecure, NOTHING, NOW).prepare) == 2


def test_agents_with_certificates_need_no_token() -> None:
    given = {"certificate.pem": b"", "key.pem": b"", "client-ca.pem": b""}
    assert titles(wanted(replace(OPEN, credentials=given), NOTHING, NOW).prepare)[2:] == [
        "make token operator, which allows to read, in /etc/loiter/read.token"
    ]
    tls = TlsSettings(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem"))
    named = replace(OPEN, settings=replace(OPEN.settings, tls=tls))
    assert "fleet" not in str(titles(wanted(named, NOTHING, NOW).prepare))


def test_where_agents_show_certificates_the_service_is_given_a_list_of_those_refused() -> None:
    given = {"certificate.pem": b"", "key.pem": b"", "client-ca.pem": b""}
    asked = replace(OPEN, credentials=given)
    files = {file.file: file for file in wanted(asked, NOTHING, NOW).files}
    assert b"/etc/loiter/revoked.txt" in files[FOLDER / "aggregator.toml"].content
    assert (files[REVOKED].content, files[REVOKED].mode) == (b"", 0o644)
    before = replace(NOTHING, files={AUTHORITY_REVOKED: FoundFile(b"0a web-1\n", 0o644)})
    assert b"0a web-1\n" in [file.content for file in wanted(asked, before, NOW).files if file.file == REVOKED]
    there = replace(NOTHING, files={REVOKED: FoundFile(b"0a\n", 0o644)})
    assert REVOKED not in {file.file for file in wanted(asked, there, NOW).files}
    own = replace(OPEN.settings, tls=TlsSettings(revoked=Path("/srv/revoked.txt")))
    kept = {file.file: file.content for file in wanted(replace(asked, settings=own), NOTHING, NOW).files}
    assert REVOKED not in kept
    assert b"revoked" not in kept[FOLDER / "aggregator.toml"]
    assert REVOKED not in {file.file for file in wanted(LOCAL, NOTHING, NOW).files}


def test_a_certificate_that_was_not_made_here_is_replaced_only_by_force(root: Path) -> None:
    apply([make_authority(), make_server_certificate(["a.example"])], root, lambda _: None)
    ours = found_files(root, [AUTHORITY / "ca.pem", SERVER_CERTIFICATE, credential("certificate.pem")])
    theirs, named = self_signed(root, "a.example")[0].read_bytes(), replace(OPEN, names=["a.example"])
    wanted(named, replace(NOTHING, files=ours), NOW)
    for found in ({}, ours):
        present = replace(NOTHING, files={**found, credential("certificate.pem"): FoundFile(theirs, 0o600)})
        with pytest.raises(InstallError, match="which were not made here: leave it out, or give --force"):
            wanted(named, present, NOW)
        wanted(replace(named, force=True), present, NOW)


def test_a_folder_that_the_unit_hides_is_no_folder_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/home")
    for folder in (Path("/home/x"), Path("/tmp/x"), tmp_path / "link" / "x"):
        with pytest.raises(InstallError, match="which the service does not see"):
            check_data_dir_is_seen(folder)
    check_data_dir_is_seen(Path("/srv/loiter"))


def test_a_store_elsewhere_takes_a_drop_in() -> None:
    elsewhere = replace(LOCAL, settings=AggregatorSettings(data_dir=Path("/srv/loiter")))
    goal = wanted(elsewhere, NOTHING, NOW)
    written = {file.file: file.content for file in goal.files}
    assert written[DATA_DIR_DROP_IN] == b"[Service]\nReadWritePaths=/srv/loiter\n"
    assert "make folder /srv/loiter (0700, owned by loiter)" in titles(goal.prepare)


def test_what_a_unit_would_read_as_something_else_is_no_folder_of_a_store() -> None:
    spaced = wanted(replace(LOCAL, settings=AggregatorSettings(data_dir=Path("/srv/my store"))), NOTHING, NOW)
    written = {file.file: file.content for file in spaced.files}
    assert written[DATA_DIR_DROP_IN] == b'[Service]\nReadWritePaths="/srv/my store"\n'
    for name in ("/srv/50%", "/srv/a\nUser=root", '/srv/"'):
        with pytest.raises(InstallError, match="plain path"):
            wanted(replace(LOCAL, settings=AggregatorSettings(data_dir=Path(name))), NOTHING, NOW)


def test_a_folder_that_is_there_and_not_of_the_service_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 54_321, 54_321)  # of a user that is gone
    with pytest.raises(InstallError, match="is there already, and not the folder of a store"):
        check_data_dir(tmp_path)
    check_data_dir(tmp_path / "new")


def test_a_store_elsewhere_goes_again_when_the_start_fails() -> None:
    elsewhere = replace(LOCAL, settings=AggregatorSettings(data_dir=Path("/srv/loiter")))
    assert wanted(elsewhere, NOTHING, NOW).made_by_start == (Path("/srv/loiter"), Path("/var/lib/loiter"))


def test_a_purge_takes_the_files_of_the_store_and_nothing_else(tmp_path: Path) -> None:
    shared, foreign, link = tmp_path / "shared", tmp_path / "foreign", tmp_path / "link"
    for folder in (shared, foreign):
        folder.mkdir()
        (folder / "tokens.json").touch()
    for name in ("loiter.duckdb", "loiter.duckdb.wal", "mine"):
        (shared / name).touch()
    (shared / "loiter.duckdb.tmp").mkdir()
    link.symlink_to(shared)
    nobody = shared.stat().st_uid + 1
    gone = store_removal([link, foreign, tmp_path / "missing"], nobody)
    assert gone.files == (shared / "tokens.json", shared / "loiter.duckdb.wal", shared / "loiter.duckdb", link)
    assert (gone.trees, gone.folders) == ((shared / "loiter.duckdb.tmp",), (shared,))
    apply_forward(removal_plan(gone, ServiceState()), Path("/"), lambda _: None)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["foreign", "mine", "shared", "tokens.json"]
    assert store_removal([link, shared], nobody) == store_removal([], None)
    # Before the first start there is no store yet: the folder is known by its owner.
    assert store_removal([foreign], foreign.stat().st_uid).files == (foreign / "tokens.json",)


def test_a_purge_takes_all_that_an_aggregator_keeps(tmp_path: Path) -> None:
    """Also what it remembers of alerts and reports, in a folder that is not its own for all time."""
    folder = tmp_path / "store"
    store, reports = DuckDbStore(folder, "100MB"), ReportState(folder)
    signing_key(folder)
    remember(folder / FILE, Memory())
    (folder / "cache" / "matplotlib").mkdir(parents=True)
    try:
        kept = {file for file in folder.rglob("*") if file.is_file()}
        assert {"reports.sqlite3", "reports.sqlite3-wal", "alerts.json", "web.key"} < {file.name for file in kept}
        gone = store_removal([folder], None)
        assert (kept - set(gone.files), gone.trees, gone.folders) == (
            set(),
            (folder / "cache/matplotlib",),
            (folder / "cache", folder),
        )
    finally:
        store.close()
        reports.close()


def test_a_person_who_is_called_like_the_user_of_the_service_stays() -> None:
    made = pwd.struct_passwd(("loiter", "x", 998, 998, "loiter aggregator", "/var/lib/loiter", "/usr/sbin/nologin"))
    assert is_service_user(made)
    for at, value in ((2, 1_000), (4, "Lo Iter,,,"), (5, "/home/loiter"), (6, "/bin/bash")):
        fields = [*made]
        fields[at] = value
        assert not is_service_user(pwd.struct_passwd(fields))


def test_a_name_for_this_machine_alone_is_refused() -> None:
    with pytest.raises(InstallError, match=r"127\.0\.0\.1:7433 is for this machine alone: leave out --name"):
        check_names(["a.example"], LOCAL.settings)
    check_names(["a.example"], OPEN.settings)
    check_names([], LOCAL.settings)


def test_a_token_that_was_handed_out_is_not_missed() -> None:
    named = replace(OPEN, names=["a.example"])
    made = titles(wanted(named, replace(NOTHING, tokens=frozenset({"fleet"})), NOW).prepare)
    assert [title for title in made if "token" in title] == [
        "make token operator, which allows to read, in /etc/loiter/read.token"
    ]
    assert tokens_gone({"fleet", "operator"}, ingest=False, read=True) == (
        "\nToken fleet is in force; /etc/loiter/ingest.token, where it was, is gone. Without a copy of it: "
        "loiter token revoke fleet && loiter service install"
    )
    assert tokens_gone({"fleet"}, ingest=True, read=False) == ""


def test_secrets_are_made_once_and_only_root_can_read_them(root: Path) -> None:
    token_file = Path("/var/lib/loiter/tokens.json")
    steps = [
        make_authority(),
        make_server_certificate(["a.example", "10.0.0.1"]),
        hand_out_authority(),
        make_token(token_file, "fleet", Right.INGEST, INGEST_TOKEN),
        make_token(token_file, "operator", Right.READ, READ_TOKEN),
    ]
    apply(steps, root, lambda _: None)

    def at(path: Path) -> Path:
        return root / path.relative_to("/")

    for secret in (AUTHORITY / "ca.key", SERVER_KEY, credential("key.pem"), INGEST_TOKEN, READ_TOKEN, token_file):
        assert stat.S_IMODE(at(secret).stat().st_mode) == 0o600, secret
    assert stat.S_IMODE(at(TRUST).stat().st_mode) == 0o644
    assert at(credential("certificate.pem")).read_bytes() == at(SERVER_CERTIFICATE).read_bytes()
    assert [(one.name, one.right) for one in tokens.load(at(token_file))] == [
        ("fleet", Right.INGEST),
        ("operator", Right.READ),
    ]
    looked = (AUTHORITY / "ca.pem", SERVER_CERTIFICATE, SERVER_KEY, TRUST, INGEST_TOKEN, READ_TOKEN)
    found = {path: FoundFile(at(path).read_bytes(), 0o600) for path in looked}
    again = wanted(replace(OPEN, names=["a.example"]), Present(found, user=True, data_dir=True), datetime.now(UTC))
    assert again.prepare == ()
    assert {file.file: file.content for file in again.files}[credential("key.pem")] == at(SERVER_KEY).read_bytes()


def test_secrets_that_were_made_go_again_when_a_later_step_fails(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    steps: list[Step] = [
        make_authority(),
        make_server_certificate(["a.example"]),
        make_token(Path("/var/lib/loiter/tokens.json"), "fleet", Right.INGEST, INGEST_TOKEN),
        Run(("false",)),
    ]
    with pytest.raises(StepFailed, match="what was done is undone"):
        apply(steps, root, lambda _: None)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_token_whose_name_is_taken_is_not_made_over(root: Path) -> None:
    token_file = Path("/var/lib/loiter/tokens.json")
    apply([make_token(token_file, "fleet", Right.INGEST, INGEST_TOKEN)], root, lambda _: None)
    kept = (root / "var/lib/loiter/tokens.json").read_bytes()
    with pytest.raises(StepFailed, match="there is a token fleet already; revoke it first"):
        apply([make_token(token_file, "fleet", Right.INGEST, FOLDER / "x")], root, lambda _: None)
    assert (root / "var/lib/loiter/tokens.json").read_bytes() == kept


def test_a_certificate_is_made_anew_for_another_name_or_when_it_ends_soon(root: Path) -> None:
    apply([make_authority(), make_server_certificate(["a.example", "10.0.0.1"])], root, lambda _: None)
    certificate = (root / SERVER_CERTIFICATE.relative_to("/")).read_bytes()
    assert names_in(certificate) == ["a.example", "10.0.0.1"]
    now = datetime.now(UTC)
    assert names_to_certify(certificate, ["A.example"], now) == []
    assert names_to_certify(certificate, ["b.example"], now) == ["a.example", "10.0.0.1", "b.example"]
    assert names_to_certify(certificate, ["a.example"], now + timedelta(days=340)) == ["a.example", "10.0.0.1"]
    assert names_to_certify(None, ["a.example"], now) == ["a.example"]
    with pytest.raises(InstallError, match=r"aggregator.pem can not be read"):
        wanted(
            replace(OPEN, names=["a.example"]),
            replace(NOTHING, files={SERVER_CERTIFICATE: FoundFile(b"x", 0o644)}),
            now,
        )


def test_whether_it_serves_is_asked_where_no_certificate_has_to_be_shown() -> None:
    """As agents may have to show one, and this command has none."""
    settings = replace(OPEN.settings, listen_readers="0.0.0.0:7435")
    assert _door(replace(OPEN, settings=settings)).address == "127.0.0.1:7435"


def test_the_next_commands_are_said() -> None:
    settings = AggregatorSettings(listen="0.0.0.0:7433", http="0.0.0.0:7434")
    assert next_steps(settings, "a.example", ingest=True, read=True, trust=True).splitlines() == [
        "",
        "On every host, as root, with copies of /etc/loiter/ca.pem and /etc/loiter/ingest.token:",
        "    loiter-agent install --server a.example:7433 --ca ca.pem --token-file ingest.token",
        "To look, here as root:",
        "    loiter top apps --server a.example:7433 --ca /etc/loiter/ca.pem --token-file /etc/loiter/read.token",
        "Or in a browser, with the token in /etc/loiter/read.token:",
        "    https://a.example:7434/",
    ]
    apart = replace(settings, listen_readers="0.0.0.0:7435")
    said = next_steps(apart, "a.example", ingest=True, read=True, trust=True)
    assert "loiter-agent install --server a.example:7433" in said
    assert "loiter top apps --server a.example:7435" in said
    foreign = next_steps(settings, "a.example", ingest=True, read=True, trust=False)
    assert foreign.count("--ca AUTHORITY.pem") == 2
    local = next_steps(AggregatorSettings(), None, ingest=False, read=False, trust=False)
    assert "    loiter-agent install --server 127.0.0.1:7433\n" in local
    assert local.endswith("Or in a browser on this machine:\n    http://127.0.0.1:7434/")
    assert "browser" not in next_steps(replace(settings, http=None), "a.example", ingest=True, read=True, trust=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--certificate", "c.pem"], "--certificate and --key come together"),
        (["--client-ca", "c.pem"], "--client-ca goes with --certificate and --key"),
        (["--name", "a", "--certificate", "c", "--key", "k"], "choose"),
        (["--listen", "nowhere"], "is not HOST:PORT"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(flags: list[str], said: str) -> None:
    done = CliRunner().invoke(loiter, ["service", "install", *flags])
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs this machine")
def test_without_systemd_it_is_said_what_to_do_instead() -> None:
    for verb in ("install", "uninstall"):
        done = CliRunner().invoke(loiter, ["service", verb])
        assert done.exit_code == 1
        assert "systemd is not what runs this machine, so no service can be installed" in done.output
