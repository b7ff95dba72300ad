"""The command that prints labels: what it is given, what it may print, and how it is ended."""

from __future__ import annotations

import ast
import asyncio
import errno
import os
import selectors
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from loiter_agent.label_command import (
    MAX_OUTPUT_BYTES,
    TIMEOUT_SECONDS,
    CommandError,
    run_command,
    split_command,
)
from loiter_agent.labels import ask_command
from support.programs import run, wait_until


def script(text: str) -> list[str]:
    """A command that is a program of Python."""
    return [sys.executable, "-c", text]


def failure(text: str) -> str:
    """Why a program of Python printed no labels."""
    with pytest.raises(CommandError) as error:
        run_command(script(text), seconds=20)
    return str(error.value)


def test_labels_are_what_it_prints_a_line_each() -> None:
    """Blank lines and comments are allowed, as in a file."""
    assert run_command(script("print('# made by cloud-init\\n\\nzone=fra1-a\\n rack = 7 ')")) == {
        "zone": "fra1-a",
        "rack": "7",
    }


def test_it_may_print_nothing() -> None:
    """A host without labels is no failure, and what it says on standard error is nobody's concern then."""
    assert run_command(script("import sys; print('no rack', file=sys.stderr)")) == {}


def test_no_shell_stands_between() -> None:
    """Words are split as by a shell, which expands nothing."""
    assert split_command("echo 'role=$HOME; id' zone=*") == ("echo", "role=$HOME; id", "zone=*")
    assert run_command(split_command("echo 'role=$HOME; id'")) == {"role": "$HOME; id"}


@pytest.mark.parametrize("command", ["", "  ", "echo 'role=web", "echo \0"])
def test_a_command_without_words_is_refused(command: str) -> None:
    """With the command."""
    with pytest.raises(ValueError, match=r"words|no program"):
        split_command(command)


def test_its_environment_is_not_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may hold a token. It starts in the root folder, without input, in a session of its own."""
    monkeypatch.setenv("LOITER_TOKEN", "secret")
    said = run_command(
        script(
            "import os, sys; print(f'names={\" \".join(sorted(os.environ))}'); print(f'folder={os.getcwd()}')\n"
            "print(f'input={len(sys.stdin.read())}'); print(f'leads={os.getsid(0) == os.getpid()}')"
        )
    )
    assert said == {"names": "LANG PATH", "folder": "/", "input": "0", "leads": "True"}


def test_a_failure_is_told_by_its_status_and_its_first_words() -> None:
    """Written so that a terminal does nothing by them, and not at length."""
    said = failure("import sys; print('role=web'); sys.exit('\\x1b[31mno metadata\\x07' + 'x' * 9999 + '\\nmore')")
    assert said == "its exit status is 1: \\x1b[31mno metadata\\x07" + "x" * 183
    assert failure("import os; os.kill(os.getpid(), 9)") == "it was killed by signal 9"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As is one that can not be executed."""
    with pytest.raises(CommandError, match="cannot run no-such-program: No such file or directory"):
        run_command(["no-such-program"])
    (tmp_path / "labels").write_text("#!/bin/sh\n")
    with pytest.raises(CommandError, match=f"cannot run {tmp_path}/labels: Permission denied"):
        run_command([str(tmp_path / "labels")])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("role=web\nrole", "line 2: 'role' is not of the form key=value"),
        ("role=\x1b[2Jweb", "line 1: label role is not a printable text of at most 255 characters"),
        ("ro\x1ble=web", r"line 1: 'ro\x1ble' is not a label name"),
        ("role=" + "x" * 256, "line 1: label role is not a printable text"),
        ("role=" + "x" * 5_000, "line 1: longer than a label can be"),
        ("\n\nrole=web\nrole=db", "line 4: label role for a second time"),
    ],
)
def test_what_is_no_label_is_refused_by_its_line(content: str, said: str) -> None:
    """Hostile texts among them: what is quoted is written as an escape."""
    found = failure(f"import sys; sys.stdout.write({content!r})")
    assert found.startswith("what it prints is no list of labels: " + said)
    assert found.isprintable()


def test_bytes_that_are_no_text_are_refused() -> None:
    """At their place."""
    assert failure(r"import os; os.write(1, b'role=\xff\xfe')") == "what it prints is not UTF-8 text (byte 5)"


def test_ten_megabytes_are_not_read() -> None:
    """It is killed once it has printed more than labels can be."""
    said = failure("import os\nfor _ in range(160): os.write(1, b'x' * 65536)\nos.write(2, b'all written')")
    assert said == f"it prints more than {MAX_OUTPUT_BYTES:,} bytes; labels are a line each"


def test_errors_without_end_are_read_and_forgotten() -> None:
    """A full pipe would hold the command up."""
    assert run_command(script("import os\nfor _ in range(160): os.write(2, b'x' * 65536)\nos.write(1, b'a=b')")) == {
        "a": "b"
    }


def test_a_command_that_does_not_end_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    """Though it heeds no other signal."""
    pids = tmp_path / "pids"
    with pytest.raises(CommandError, match="it does not end within 500ms"):
        run_command(["sh", "-c", f"trap '' TERM; sleep 60 & echo $$ $! > {pids}; wait"], seconds=0.5)
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    wait_until(lambda: not any(alive(pid) for pid in started), 10, "both are gone")


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_command_leaves_behind_does_not_hold_up_its_answer(tmp_path: Path) -> None:
    """A grandchild has its pipes open: the end of the command is the end of the output, and of the grandchild."""
    pid = tmp_path / "pid"
    found = run_command(script(f"{_FORK}{_sleeper(pid)}{_answer(pid)}"), seconds=50)
    assert found == {"role": "web"}
    wait_until(lambda: not alive(int(pid.read_text())), 10, "the grandchild is gone")


def test_a_grandchild_of_another_session_does_not_hold_up_its_answer(tmp_path: Path) -> None:
    """It can not be killed with the command, and is not waited for either."""
    pid = tmp_path / "pid"
    found = run_command(script(f"{_FORK}    os.setsid()\n{_sleeper(pid)}{_answer(pid)}"), seconds=50)
    assert found == {"role": "web"}
    assert alive(int(pid.read_text()))
    os.kill(int(pid.read_text()), signal.SIGKILL)


# A program in pieces: it forks; its child says its number and sleeps; once that is said, it answers.
_FORK = "import os, time\nif not os.fork():\n"


def _sleeper(pid: Path) -> str:
    return (
        f"    open('{pid}.new', 'w').write(str(os.getpid()))\n    os.rename('{pid}.new', '{pid}')\n"
        "    time.sleep(60)\n    os._exit(0)\n"
    )


def _answer(pid: Path) -> str:
    return f"while not os.path.exists('{pid}'): time.sleep(0.01)\nos.write(1, b'role=web')\n"


def test_an_agent_that_stops_does_not_wait_for_it(tmp_path: Path) -> None:
    """Called off, the command is killed; the loop ends at once, with the thread that waited."""
    pid = tmp_path / "pid"

    async def cancel() -> None:
        asking = asyncio.ensure_future(ask_command(script(f"{_FORK}{_sleeper(pid)}time.sleep(60)")))
        await asyncio.to_thread(wait_until, pid.exists, 20, "it runs")
        asking.cancel()
        await asyncio.wait((asking,))
        assert asking.cancelled()

    began = time.monotonic()
    asyncio.run(cancel())
    assert time.monotonic() - began < TIMEOUT_SECONDS, "not until its time is up"
    wait_until(lambda: not alive(int(pid.read_text())), 10, "it is gone, with what it has started")


def test_the_loop_goes_on_while_it_runs() -> None:
    """It runs in a thread."""

    async def beside() -> tuple[dict[str, str], int]:
        asking = asyncio.ensure_future(ask_command(script("import time; time.sleep(0.2); print('role=web')")))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        return await asking, turns

    labels, turns = asyncio.run(beside())
    assert labels == {"role": "web"}
    assert turns > 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give itself ambient capabilities")
def test_it_has_none_of_the_capabilities_that_the_service_was_given() -> None:
    """Which would let it read every file: they are for reading the descriptors of processes."""
    command = ("sed", "-nE", r"s/^(CapEff|CapAmb):\s*/\1=/p", "/proc/self/status")
    program = f"""
        from loiter_agent.label_command import run_command
        print(run_command({command!r}))
        print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapAmb")])
    """
    right = "+sys_ptrace,+dac_read_search"
    as_nobody = ("--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={right}", f"--ambient-caps={right}")
    agent = run(("setpriv", *as_nobody, sys.executable, "-c", textwrap.dedent(program)))
    of_the_command, of_the_agent = map(ast.literal_eval, agent.stdout.splitlines())
    assert of_the_command == {"CapEff": "0" * 16, "CapAmb": "0" * 16}
    assert int(of_the_agent[0], 16) == 1 << 19 | 1 << 2, "which keeps them"


def test_no_descriptors_to_read_by_are_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the end of the agent."""

    def no_more() -> selectors.DefaultSelector:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(selectors, "DefaultSelector", no_more)
    assert failure("print('zone=a')") == "cannot read what it prints: Too many open files"
