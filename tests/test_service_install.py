"""Plans of an installation: computed from what is there, taken in a folder that stands for the host, and undone."""

from __future__ import annotations

import os
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from loiter.service_install import units
from loiter.service_install.errors import InstallError
from loiter.service_install.look import found_files, found_folders
from loiter.service_install.plan import (
    Found,
    Removal,
    Wanted,
    WantedFile,
    apply,
    apply_forward,
    describe,
    plan,
    removal_plan,
)
from loiter.service_install.steps import (
    FoundFile,
    Make,
    MakeFolder,
    RemoveFile,
    RemoveFolder,
    Run,
    Step,
    StepFailed,
    WriteFile,
)
from loiter.service_install.systemd import ServiceState, last_log_lines, parse_state
from loiter.service_install.toml_merge import MergeError, merge
from loiter.service_install.wanted_files import settings_file, unit_files

UNIT = "some.service"
UNIT_FILE = Path("/etc/systemd/system/some.service")
CONFIG = Path("/etc/some/some.toml")
WANTED = Wanted(
    UNIT,
    folders=(MakeFolder(Path("/etc/some"), 0o755),),
    files=(WantedFile(CONFIG, b"a = 1\n"), WantedFile(UNIT_FILE, b"[Service]\n")),
)
RUNNING = ServiceState(loaded=True, enabled=True, active=True, started_at=1_000.0, summary="active (running)")
THERE = {
    CONFIG: FoundFile(b"a = 1\n", 0o644, 900.0),
    UNIT_FILE: FoundFile(b"[Service]\n", 0o644, 900.0),
}


def commands(steps: tuple[Step, ...]) -> list[str]:
    """The commands that a plan runs."""
    return [" ".join(step.command) for step in steps if isinstance(step, Run) and step.command]


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """All that is below a folder: modes and contents."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def test_on_a_new_host_everything_is_made_before_the_service_is_started() -> None:
    steps = plan(WANTED, Found({}, frozenset(), ServiceState()))
    assert [step.describe().splitlines()[0] for step in steps if step.describe()] == [
        "make folder /etc/some (0755)",
        "write /etc/some/some.toml (0644)",
        "write /etc/systemd/system/some.service (0644)",
        "run systemctl daemon-reload",
        "run systemctl enable some.service",
        "run systemctl restart some.service",
    ]


def test_where_all_is_as_wanted_nothing_is_done() -> None:
    assert plan(WANTED, Found(THERE, frozenset({Path("/etc/some")}), RUNNING)) == ()


def test_a_changed_setting_takes_a_restart_and_no_reload_of_units() -> None:
    found = {**THERE, CONFIG: FoundFile(b"a = 2\n", 0o644)}
    assert commands(plan(WANTED, Found(found, frozenset({Path("/etc/some")}), RUNNING))) == [
        "systemctl restart some.service"
    ]


def test_a_file_that_somebody_changed_since_the_start_takes_a_restart() -> None:
    found = {**THERE, CONFIG: FoundFile(b"a = 1\n", 0o644, 1_001.0)}
    assert commands(plan(WANTED, Found(found, frozenset({Path("/etc/some")}), RUNNING))) == [
        "systemctl restart some.service"
    ]


def test_a_file_that_is_copied_with_an_older_time_has_changed_now(tmp_path: Path) -> None:
    file = tmp_path / "some"
    file.touch()
    os.utime(file, (1, 1))
    found = found_files(tmp_path, [Path("/some")])
    assert found[Path("/some")].changed_at > time.time() - 60


def test_a_program_that_was_upgraded_since_the_start_takes_a_restart() -> None:
    found = Found(THERE, frozenset({Path("/etc/some")}), RUNNING, code_changed_at=1_001.0)
    assert commands(plan(WANTED, found)) == ["systemctl restart some.service"]
    assert 0 < units.code_changed_at() < time.time()


def test_a_start_that_goes_on_for_long_is_not_undone(tmp_path: Path) -> None:
    steps: list[Step] = [WriteFile(Path("/f"), b"", 0o644), Run(("sleep", "600"), (("false",),), patience=0.01)]
    apply(steps, tmp_path, lambda _: None)
    assert (tmp_path / "f").exists()
    restart = plan(WANTED, Found({}, frozenset(), ServiceState()), patience=7.0)[-1]
    assert isinstance(restart, Run)
    assert restart.patience == 7.0


def test_a_start_that_is_going_on_is_waited_for_and_not_begun_anew() -> None:
    starting = replace(RUNNING, active=False, summary="activating (start)")
    found = Found(THERE, frozenset({Path("/etc/some")}), starting)
    assert commands(plan(WANTED, found)) == ["systemctl start some.service"]


def test_a_wrong_mode_is_a_change() -> None:
    found = {**THERE, CONFIG: FoundFile(b"a = 1\n", 0o666)}
    steps = plan(WANTED, Found(found, frozenset({Path("/etc/some")}), RUNNING))
    assert [(step.file, step.mode) for step in steps if isinstance(step, WriteFile)] == [(CONFIG, 0o644)]


def test_a_service_that_is_not_to_start_is_enabled_alone() -> None:
    steps = plan(Wanted(UNIT, start=False), Found({}, frozenset(), ServiceState(loaded=True)))
    assert commands(steps) == ["systemctl enable some.service"]


def test_a_plan_shows_what_changes_in_a_file_and_not_what_is_secret() -> None:
    before = FoundFile(b"a = 1\nb = 2\nc = 3\nd = 4\n", 0o644)
    shown = describe(
        [
            WriteFile(CONFIG, b"a = 1\nb = 2\nc = 3\nd = 5\n", 0o644, before),
            WriteFile(Path("/etc/key"), b"hush", 0o600, secret=True),
        ]
    )
    assert shown.splitlines() == [
        "change /etc/some/some.toml (0644)",
        "    @@ -3,2 +3,2 @@",
        "     c = 3",
        "    -d = 4",
        "    +d = 5",
        "write /etc/key (0600, 4 bytes, not shown)",
    ]


@pytest.mark.parametrize("failing", range(5))
def test_whichever_step_fails_the_files_are_as_before(tmp_path: Path, failing: int) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/old").write_text("old")
    (tmp_path / "etc/old").chmod(0o640)
    before = tree(tmp_path)

    def make(root: Path) -> None:
        (root / "etc/old").write_text("made")
        (root / "etc/made").write_text("made")

    old = found_files(tmp_path, [Path("/etc/old")])[Path("/etc/old")]
    steps: list[Step] = [
        MakeFolder(Path("/etc/new"), 0o755),
        WriteFile(Path("/etc/new/file"), b"new", 0o600),
        WriteFile(Path("/etc/old"), b"new", 0o644, old),
        Make("make things", (Path("/etc/old"), Path("/etc/made")), make),
    ]
    steps.insert(failing, Run(("false",)))
    with pytest.raises(StepFailed, match=r"false failed \(1\)\nwhat was done is undone"):
        apply(steps, tmp_path, lambda _: None)
    assert tree(tmp_path) == before


def test_what_can_not_be_undone_is_said(tmp_path: Path) -> None:
    steps = [Run(("true",), (("false",),)), Run(("sh", "-c", "echo no room >&2; exit 3"))]
    with pytest.raises(StepFailed) as failure:
        apply(steps, tmp_path, lambda _: None)
    assert str(failure.value).splitlines() == [
        "sh -c 'echo no room >&2; exit 3' failed (3): no room",
        "not all could be undone: false failed (1)",
    ]


def test_an_interruption_undoes_too(tmp_path: Path) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    steps: list[Step] = [MakeFolder(Path("/new"), 0o755), Make("wait", (), interrupt)]
    with pytest.raises(KeyboardInterrupt):
        apply(steps, tmp_path, lambda _: None)
    assert tree(tmp_path) == {}


def test_a_step_that_can_not_be_done_says_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"^cannot write /etc/x: No such file or directory"):
        apply([WriteFile(Path("/etc/x"), b"", 0o644)], tmp_path, lambda _: None)
    with pytest.raises(StepFailed, match=r"^cannot run no-such-command: No such file"):
        apply([Run(("no-such-command",))], tmp_path, lambda _: None)


def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        apply([MakeFolder(Path("/d"), 0o755), WriteFile(Path("/d/f"), b"x", 0o644)], tmp_path, lambda _: None)
    finally:
        os.umask(before)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o644


def test_a_file_stays_whose_it_was_also_when_it_is_put_back(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")
    if os.geteuid() == 0:
        os.chown(file, 12, 34)
    owner = (file.stat().st_uid, file.stat().st_gid)
    before = found_files(tmp_path, [Path("/f")])[Path("/f")]
    write = WriteFile(Path("/f"), b"new", 0o640, before)
    write.do(tmp_path)
    assert (file.read_bytes(), file.stat().st_uid, file.stat().st_gid) == (b"new", *owner)
    for step in (write, RemoveFile(Path("/f"), before)):
        step.do(tmp_path)
        step.undo(tmp_path)
        status = file.stat()
        assert (file.read_bytes(), status.st_mode & 0o777, status.st_uid, status.st_gid) == (b"old", 0o644, *owner)


@pytest.mark.parametrize("target", ["theirs", "nowhere"])
def test_a_symbolic_link_is_not_replaced_by_a_file(tmp_path: Path, target: str) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "f").symlink_to(target)
    before = found_files(tmp_path, [Path("/f")]).get(Path("/f"))
    with pytest.raises(StepFailed, match=f"cannot write /f: it is a symbolic link, to {target}, and is left as it is"):
        apply([WriteFile(Path("/f"), b"ours", 0o644, before)], tmp_path, lambda _: None)
    assert ((tmp_path / "f").readlink(), (tmp_path / "theirs").read_text()) == (Path(target), "theirs")


def test_removing_what_is_there_goes_from_the_service_to_its_files() -> None:
    removal = Removal(UNIT, files=(UNIT_FILE,), trees=(Path("/var/lib/some"),), folders=(Path("/etc/some"),))
    assert [step.describe() for step in removal_plan(removal, RUNNING)] == [
        "run systemctl stop some.service",
        "run systemctl disable some.service",
        "remove /etc/systemd/system/some.service",
        "remove /var/lib/some and all that is in it",
        "remove /etc/some if nothing is in it",
        "run systemctl daemon-reload",
    ]
    assert removal_plan(Removal(UNIT), ServiceState()) == ()


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "etc/some").mkdir(parents=True)
    (tmp_path / "etc/some/theirs").touch()
    apply_forward([RemoveFolder(Path("/etc/some")), RemoveFolder(Path("/not-there"))], tmp_path, lambda _: None)
    assert (tmp_path / "etc/some/theirs").exists()
    apply_forward([RemoveFolder(Path("/etc/some"), with_content=True)], tmp_path, lambda _: None)
    assert found_folders(tmp_path, [Path("/etc/some")]) == frozenset()


def test_the_state_of_a_unit_is_read_from_what_systemctl_shows() -> None:
    shown = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
        "NeedDaemonReload": "yes",
        "MainPID": "42",
        "ExecMainStartTimestampMonotonic": "5000000",
    }
    assert parse_state(shown, 1_000.0) == ServiceState(
        loaded=True,
        enabled=True,
        active=True,
        needs_reload=True,
        main_pid=42,
        started_at=1_005.0,
        summary="active (running)",
    )
    assert parse_state({"LoadState": "not-found"}, 0.0) == ServiceState()
    assert parse_state({}, 0.0) == ServiceState()


def test_what_a_unit_has_logged_can_not_command_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "journalctl").write_text("#!/bin/sh\nprintf 'red \\033[31m\\n'\n")
    (tmp_path / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert last_log_lines(UNIT) == ["red \\x1b[31m"]


# Settings.

SETTINGS = """\
# Settings of the agent.
#server = ["127.0.0.1:7433"]
interval = "10s"  # as ever

[labels]
role = "web"

[processes]
#top = 10
"""


def test_settings_are_changed_where_they_are_and_the_rest_stays() -> None:
    merged = merge(
        SETTINGS,
        {
            ("server",): ["a:1", "b:2"],
            ("interval",): "5s",
            ("labels", "dc"): "fra\u00e9",
            ("labels", "a.b"): 'say "x"',
            ("processes", "top"): 3,
            ("spool", "max_bytes"): "1GB",
            ("insecure",): True,
        },
    )
    assert (
        merged
        == """\
# Settings of the agent.
#server = ["127.0.0.1:7433"]
server = ["a:1", "b:2"]
interval = "5s"  # as ever
insecure = true

[labels]
role = "web"
dc = "fra\u00e9"
"a.b" = "say \\"x\\""

[processes]
#top = 10
top = 3

[spool]
max_bytes = "1GB"
"""
    )


def test_lines_end_as_they_did() -> None:
    text = 'interval = "10s"  # as ever\r\n\r\n[labels]\r\n'
    changed = merge(text, {("interval",): "5s", ("labels", "role"): "web"})
    assert changed == 'interval = "5s"  # as ever\r\n\r\n[labels]\r\nrole = "web"\r\n'


def test_what_is_so_already_is_not_touched() -> None:
    assert merge(SETTINGS, {("interval",): "10s", ("labels", "role"): "web"}) == SETTINGS
    assert merge("", {}) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('server = [\n  "a:1",\n]\n', "server is set there in a form that is not safe to change; write it by hand: "),
        ('labels = "role=web"\n', "labels.role is set there"),
        ('labels.dc = "x"\n', "not safe to change"),
        ('labels = { dc = "x" }\n', "not safe to change"),
        ("server = \n", "not valid TOML"),
        ('x = """\nserver = "a"\n"""\n', "not safe to change"),
    ],
)
def test_a_form_that_is_not_understood_is_left_alone_and_said(text: str, said: str) -> None:
    with pytest.raises(MergeError, match=said):
        merge(text, {("server",): ["b:2"], ("labels", "role"): "db"})


def test_a_new_file_of_settings_begins_with_its_header() -> None:
    file = settings_file(CONFIG, "# Settings.\n", {("server",): ["a:1"]}, None)
    assert file.content == b'# Settings.\nserver = ["a:1"]\n'
    assert tomllib.loads(file.content.decode()) == {"server": ["a:1"]}
    kept = settings_file(CONFIG, "", {}, FoundFile(b"x = 1\n", 0o600))
    assert (kept.content, kept.mode) == (b"x = 1\n", 0o600)
    with pytest.raises(InstallError, match=r"^/etc/some/some.toml is left as it is: it is not valid TOML"):
        settings_file(CONFIG, "", {}, FoundFile(b"=", 0o644))


# Units.


def test_a_unit_runs_the_command_that_it_is_made_for() -> None:
    text = "[Service]\nExecStart=/usr/bin/some run\n"
    made = units.make_unit(text, "/usr/bin/some", ("/opt/my some/bin/some",), "some install")
    assert made.endswith(b'[Service]\nExecStart="/opt/my some/bin/some" run\n')
    assert units.is_ours(made)
    assert not units.is_ours(made + b"# by hand\n")
    assert not units.is_ours(text.encode())
    for word in ("/opt/50%/some", "/opt/$HOME/some", '/opt/"/some', "/opt/a\nb"):
        with pytest.raises(units.UnitError, match="plain path"):
            units.make_unit(text, "/usr/bin/some", (word,), "some install")


def test_units_that_come_with_this_distribution_run_what_the_installers_replace() -> None:
    for name, command in (
        ("loiter-agent.service", "/usr/bin/loiter-agent"),
        ("loiter-aggregator.service", "/usr/bin/loiter"),
    ):
        assert b"ExecStart=/opt/x " in units.make_unit(units.shipped(name), command, ("/opt/x",), "x")
    assert {"namespaces", "close-tracer"} <= units.shipped_drop_ins("loiter-agent.service").keys()


def test_the_unit_of_somebody_else_is_shown_and_kept() -> None:
    theirs, backup = FoundFile(b"[Service]\nExecStart=/mine\n", 0o600), Path("/etc/systemd/system/some.service.orig")
    with pytest.raises(InstallError, match=r"ExecStart=/mine\n--force replaces it, and keeps it as .*\.orig"):
        unit_files(UNIT_FILE, b"new", theirs, "some install", backup, force=False)
    files = unit_files(UNIT_FILE, b"new", theirs, "some install", backup, force=True)
    assert [(file.file, file.content, file.mode) for file in files] == [
        (backup, theirs.content, 0o600),
        (UNIT_FILE, b"new", 0o644),
    ]
    masked = FoundFile(b"", 0o666)  # as a link to /dev/null is read
    with pytest.raises(InstallError, match=r"some.service is masked by .*: systemctl unmask some.service"):
        unit_files(UNIT_FILE, b"new", masked, "some install", backup, force=True)
    older = FoundFile(units.make_unit("ExecStart=/a run\n", "/a", ("/b",), "some install"), 0o644)
    assert [file.file for file in unit_files(UNIT_FILE, b"new", older, "x", backup, force=False)] == [UNIT_FILE]


def test_a_place_that_the_service_can_not_reach_is_named() -> None:
    assert units.unreachable([Path("/usr/bin/env")], "move it") is None
    hidden = units.unreachable([Path("/root/venv/bin/some")], "move it")
    assert hidden == "/root/venv/bin/some is under /root, which the service does not see; move it"
    assert "under /tmp" in (units.unreachable([Path("/tmp/x")], "move it") or "")
    assert units.unreachable([Path("/usr/no-such-file")], "move it") == "/usr/no-such-file: No such file or directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of root outside of the folders that a service does not see")
def test_a_place_that_others_may_change_or_not_read_is_named() -> None:
    folder = Path("/opt/loiter-test-units")
    folder.mkdir(mode=0o700)
    try:
        assert "is not for everyone" in (units.unreachable([folder], "move it") or "")
        folder.chmod(0o777)
        assert "can be changed by others than root" in (units.unreachable([folder], "move it") or "")
    finally:
        folder.rmdir()


def test_a_program_knows_how_to_run_itself() -> None:
    assert units.own_command("loiter_agent", sys.executable) == (sys.executable,)
    assert units.own_command("loiter_agent", "/x/loiter_agent/__main__.py") == (
        sys.executable,
        "-P",
        "-m",
        "loiter_agent",
    )
