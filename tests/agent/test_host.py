"""Which host this is: an id that stays, and does not disclose the machine-id."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loiter.limits import HOST_ID_PATTERN
from loiter_agent.host import HOST_ID_FILE, identify_host
from loiter_agent.procfs import Procfs
from support.proctree_fake import BOOT_ID, ProcTree

MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def procfs(tmp_path: Path) -> Procfs:
    return Procfs(ProcTree(tmp_path).root)


def machine_id(folder: Path, text: str) -> Path:
    file = folder / "machine-id"
    file.write_text(text)
    return file


def test_the_id_is_derived_from_the_machine_id_and_does_not_disclose_it(tmp_path: Path, procfs: Procfs) -> None:
    """The same on every start, of the form the wire asks for, and another than the machine-id."""
    file = machine_id(tmp_path, MACHINE_ID + "\n")
    first, second = (identify_host(procfs, machine_id=file).host_id for _ in range(2))
    assert first == second
    assert first is not None
    assert re.fullmatch(HOST_ID_PATTERN, first)
    assert first != MACHINE_ID


def test_the_derivation_never_changes(tmp_path: Path, procfs: Procfs) -> None:
    """Another key or hash would make every host a new one."""
    host = identify_host(procfs, machine_id=machine_id(tmp_path, MACHINE_ID))
    assert host.host_id == "65b2be6f0756fa221a84ddf961e32320"


def test_the_derivation_is_the_same_without_openssl(tmp_path: Path) -> None:
    """`run` does not load it: hashlib and hmac have code of their own."""
    program = (
        "import sys; sys.modules['_hashlib'] = None\n"
        "from pathlib import Path\n"
        "from loiter_agent.host import identify_host\n"
        "from loiter_agent.procfs import Procfs\n"
        f"print(identify_host(Procfs(), machine_id=Path({str(machine_id(tmp_path, MACHINE_ID))!r})).host_id)\n"
        "print(any('libcrypto' in line for line in open('/proc/self/maps')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["65b2be6f0756fa221a84ddf961e32320", "False"]


def test_what_is_given_is_taken_as_it_is(tmp_path: Path, procfs: Procfs) -> None:
    """Id, name and labels of the settings."""
    host = identify_host(procfs, "ab" * 16, "web-1", (("role", "web"),), machine_id(tmp_path, MACHINE_ID))
    assert (host.host_id, host.hostname, host.labels) == ("ab" * 16, "web-1", (("role", "web"),))


def test_name_boot_and_kernel_come_from_the_kernel(tmp_path: Path, procfs: Procfs) -> None:
    """Where nothing else is set."""
    host = identify_host(procfs, machine_id=machine_id(tmp_path, MACHINE_ID))
    assert (host.hostname, host.kernel_release) == (os.uname().nodename, os.uname().release)
    assert host.boot_id == BOOT_ID


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0123\n", "\N{SNOWMAN}" * 32])
def test_a_machine_id_that_is_none_gives_no_id(tmp_path: Path, procfs: Procfs, text: str) -> None:
    """Empty before the first boot, "uninitialized" during it: many machines would share an id made of it."""
    assert identify_host(procfs, machine_id=machine_id(tmp_path, text)).host_id is None


def test_without_a_machine_id_one_is_drawn_and_kept(tmp_path: Path, procfs: Procfs) -> None:
    """The folder is made; the next start finds the id there."""
    missing, state = tmp_path / "missing", tmp_path / "state" / "agent"
    first = identify_host(procfs, machine_id=missing, state_dir=state).host_id
    assert first is not None
    assert re.fullmatch(HOST_ID_PATTERN, first)
    assert identify_host(procfs, machine_id=missing, state_dir=state).host_id == first


def test_two_hosts_draw_different_ids(tmp_path: Path, procfs: Procfs) -> None:
    """At random."""
    missing = tmp_path / "missing"
    drawn = {identify_host(procfs, machine_id=missing, state_dir=tmp_path / name).host_id for name in "ab"}
    assert len(drawn) == 2


def test_a_machine_id_beats_what_was_drawn(tmp_path: Path, procfs: Procfs) -> None:
    """Nothing is written where there is one."""
    state = tmp_path / "state"
    identify_host(procfs, machine_id=machine_id(tmp_path, MACHINE_ID), state_dir=state)
    assert not state.exists()


def test_an_id_that_can_not_be_kept_is_an_error(tmp_path: Path, procfs: Procfs) -> None:
    """A new id at each start would fill the aggregator with hosts that fell silent."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        identify_host(procfs, machine_id=tmp_path / "missing", state_dir=tmp_path / "file" / "state")


@pytest.mark.parametrize("content", [b"", b"web-1\n", b"\xff" * 32, b"0" * 31])
def test_a_kept_id_that_is_damaged_is_named(tmp_path: Path, procfs: Procfs, content: bytes) -> None:
    """It would be refused by the aggregator at every report, or make many hosts one."""
    (tmp_path / HOST_ID_FILE).write_bytes(content)
    with pytest.raises(OSError, match="holds no host id; remove it"):
        identify_host(procfs, machine_id=tmp_path / "missing", state_dir=tmp_path)
