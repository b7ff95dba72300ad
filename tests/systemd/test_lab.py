"""The lab itself: hosts that boot, a network that can be cut, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from systemd.lab import Fleet, cgroups, network
from systemd.lab.plan import runs_folder
from systemd.lab.remains import sweep
from systemd.lab.tools import LabError, here, wait_for

TESTS = Path(__file__).parents[1]
# Boots a host, says so, and waits to be killed.
HOLDER = """
import sys, time
from systemd.lab import Fleet
with Fleet(sys.argv[1]) as fleet:
    fleet.host("one")
    print("up", flush=True)
    time.sleep(120)
"""


@contextmanager
def held(fleet: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a fleet of one host."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, fleet], stdout=subprocess.PIPE, text=True, cwd=TESTS
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def traces(fleet: str) -> list[str]:
    """What this machine has of a fleet."""
    folders = [folder for folder in cgroups.folders(f"{fleet}-one") if folder.exists()]
    names = here("ip", "netns", "list").stdout.split()
    spaces = [name for name in names if name in (network.switch(fleet), f"{fleet}-one")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{fleet}/" in line]
    return [*map(str, folders), *spaces, *mounts, *map(str, runs_folder().glob(f"{fleet}/*"))]


def reaches(fleet: Fleet, address: str) -> bool:
    """Whether a host answers this machine, be it with a refusal."""
    script = f"exec 3<>/dev/tcp/{address}/9"
    return "refused" in fleet.run("timeout", "2", "bash", "-c", script, check=False).stderr


def test_a_host_has_systemd_as_its_first_program_and_knows_the_others(fleet: Fleet) -> None:
    one, two = fleet.hosts("one", "two")
    assert one.run("ps", "-o", "comm=", "1").stdout == "systemd\n"
    assert one.run("getent", "hosts", "two").stdout.split() == [two.address, "two"]
    assert one.run("hostname").stdout == "one\n"
    assert one.run("cat", "/etc/machine-id").stdout != two.run("cat", "/etc/machine-id").stdout


def test_a_command_that_fails_or_hangs_is_an_error(fleet: Fleet) -> None:
    one = fleet.host("one")
    with pytest.raises(LabError, match="no-such-file"):
        one.run("ls", "/no-such-file")
    with pytest.raises(LabError, match="sleep 60: exit 124"):
        one.run("sleep", "60", timeout=0.2)
    assert one.run("false", check=False).returncode == 1


def test_a_cable_can_be_cut_and_healed(fleet: Fleet) -> None:
    one = fleet.host("one")
    assert reaches(fleet, one.address)
    one.cut()
    assert not reaches(fleet, one.address)
    one.heal()
    one.wait(lambda: reaches(fleet, one.address), 10)


def test_files_outlive_a_reboot_and_processes_do_not(fleet: Fleet) -> None:
    one = fleet.host("one")
    one.write("/etc/kept", "kept\n", 0o600)
    one.run("systemd-run", "--unit=sleeper", "sleep", "600")
    boot = one.run("cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id").stdout.split()
    one.reboot()
    assert one.run("cat", "/etc/kept").stdout == "kept\n"
    assert one.run("systemctl", "is-active", "sleeper", check=False).stdout == "inactive\n"
    assert one.run("cat", "/etc/machine-id").stdout.split() == boot[1:]


def test_a_limit_of_a_unit_is_in_force(fleet: Fleet) -> None:
    """A service with little memory is killed for taking more: the container's controllers are writable."""
    one = fleet.host("one")
    hungry = ("python3", "-c", "bytearray(200_000_000)")
    assert one.run("systemd-run", "--wait", "--quiet", *hungry, check=False).returncode == 0
    assert one.run("systemd-run", "--wait", "--quiet", "--property=MemoryMax=50M", *hungry, check=False).returncode != 0


@pytest.mark.usefixtures("lab")
def test_nothing_is_left_when_the_tests_are_killed() -> None:
    with held("klla") as process:
        assert traces("klla")
        process.kill()
        wait_for(lambda: not traces("klla"), 20, lambda: str(traces("klla")))


@pytest.mark.usefixtures("lab")
def test_what_a_killed_supervisor_leaves_is_swept_up_by_the_next_fleet() -> None:
    with held("kllb") as process:
        supervisor = int(here("pgrep", "--parent", str(process.pid)).stdout)
        os.kill(supervisor, signal.SIGKILL)
        process.kill()
    assert traces("kllb")
    with Fleet("kllc"):
        assert not traces("kllb")


@pytest.mark.parametrize(("lab", "status"), [("required", 1), ("", 0)])
def test_a_skip_is_a_failure_where_the_lab_is_required(tmp_path: Path, lab: str, status: int) -> None:
    """Whatever the reason for it was."""
    (tmp_path / "test_it.py").write_text("import pytest\n\ndef test_it() -> None:\n    pytest.skip('no reason')\n")
    words = (sys.executable, "-m", "pytest", "-p", "systemd.conftest", "--rootdir", tmp_path, tmp_path)
    done = here("env", f"LOITER_LAB={lab}", f"PYTHONPATH={TESTS}", *words, check=False)
    assert done.returncode == status, done.stdout


@pytest.mark.usefixtures("lab")
def test_what_can_not_be_ended_is_said_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the host stays, by which a later sweep finds the rest."""
    mark = runs_folder() / "klld" / "one" / "lock"
    mark.parent.mkdir(parents=True)
    mark.touch()

    def refuse(_: object) -> None:
        raise LabError("not empty")

    with monkeypatch.context() as patched:
        patched.setattr(cgroups, "remove", refuse)
        sweep()
        assert mark.exists()
    sweep()
    assert not mark.exists()
