"""One host of the lab."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from systemd.lab import cgroups, network
from systemd.lab.plan import Plan
from systemd.lab.tools import LabError, here, wait_for

_TESTS: Final = Path(__file__).parents[2]
_BOOT_SECONDS: Final = 60
_ENVIRONMENT: Final = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "SYSTEMD_PAGER=cat",
    "SYSTEMD_COLORS=0",
)


class Host:
    """A host with systemd as PID 1. Everything is done as root."""

    def __init__(self, plan: Plan) -> None:
        """Starts to boot it; `booted` waits until it has."""
        self._plan = plan
        self._cgroups = plan.cgroups
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        # A session of its own, so that Ctrl-C comes to the tests alone, which take the host down in their turn.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "systemd.lab.supervisor", plan.to_word()],
            stdin=subprocess.PIPE,
            stdout=self._console,
            stderr=self._console,
            cwd=_TESTS,
            start_new_session=True,
        )

    @property
    def name(self) -> str:
        """Its name, by which the other hosts of the fleet find it."""
        return self._plan.name

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return self._plan.address

    def run(
        self, *command: str | Path, check: bool = True, input: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the host and returns what it printed.

        Raises:
            LabError: It failed, and `check` is set, or it did not end in `timeout` seconds, or the host does not run.
        """
        # A timeout in the host, as what is killed out here leaves behind what runs in there.
        words = ["timeout", "--kill-after=2", f"{timeout:g}", *map(str, command)]
        done = subprocess.run(
            self.entering(words), input=input or "", capture_output=True, text=True, check=False, timeout=timeout + 20
        )
        if done.returncode == 124 or (check and done.returncode != 0):
            printed = "\n".join(part for part in (done.stdout.strip(), done.stderr.strip()) if part)
            raise LabError(f"{self.name}: {' '.join(words[3:])}: exit {done.returncode}\n{printed[-4_000:]}")
        return done

    def entering(self, command: Sequence[str]) -> list[str]:
        """The command of this machine that runs one in the host: in its cgroups first, then in its namespaces."""
        leader = self._leader()
        if leader is None:
            raise LabError(f"{self.name} does not run:\n{self.console()}")
        enter = ["nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        return cgroups.joining(self._cgroups, ["env", "-i", *_ENVIRONMENT, *enter, *command])

    def push(self, source: Path, folder: str) -> None:
        """Copies a file or a folder of this machine into a folder of the host, where it belongs to root."""
        self.run("mkdir", "-p", folder)
        unpack = self.entering(["tar", "-C", folder, "--no-same-owner", "-xf", "-"])
        with subprocess.Popen(["tar", "-C", source.parent, "-cf", "-", source.name], stdout=subprocess.PIPE) as pack:
            done = subprocess.run(unpack, stdin=pack.stdout, capture_output=True, text=True, check=False, timeout=120)
        if pack.returncode != 0 or done.returncode != 0:
            raise LabError(f"{self.name}: {source} can not be copied to {folder}: {done.stderr.strip()}")

    def write(self, file: str, text: str, mode: int = 0o644) -> None:
        """Writes a file, and its folder where there is none."""
        self.run("mkdir", "-p", str(Path(file).parent))
        self.run("sh", "-c", 'umask 077; cat >"$1" && chmod "$2" "$1"', "write", file, f"{mode:o}", input=text)

    def cut(self) -> None:
        """Pulls the network cable."""
        network.set_cable(self._plan.fleet, self.name, "down")

    def heal(self) -> None:
        """Puts the cable back."""
        network.set_cable(self._plan.fleet, self.name, "up")

    def reboot(self) -> None:
        """Reboots it in order, and waits until it is up again."""
        before = self._leader()
        self.run("systemctl", "reboot", check=False)
        wait_for(lambda: self._leader() != before, _BOOT_SECONDS, lambda: f"{self.name} goes down\n{self.console()}")
        self.booted()

    def wait(
        self,
        condition: Callable[[], object] | Sequence[str],
        seconds: float,
        what: Callable[[], str] | str | None = None,
    ) -> None:
        """Waits until a function returns what is true, or a command of the host ends with status 0. Raises LabError."""
        if callable(condition):
            wait_for(condition, seconds, what or f"{self.name}: the condition")
        else:
            wait_for(
                lambda: self.run(*condition, check=False).returncode == 0,
                seconds,
                what or f"{self.name}: {' '.join(condition)}",
            )

    def booted(self) -> None:
        """Waits until it is up: all units of its boot have started or failed."""
        stage = "nothing runs yet"

        def is_up() -> bool:
            nonlocal stage
            if self._supervisor.poll() is not None:
                raise LabError(f"{self.name} ended:\n{self.console()}")
            leader = self._leader()
            if leader is None or not Path(f"/proc/{leader}/root/run/systemd/private").exists():
                return False
            stage = "systemd runs"
            with suppress(LabError):  # it may go away once more, and one that hangs is asked again
                stage = self.run("systemctl", "is-system-running", check=False, timeout=10).stdout.strip()
            return stage in ("running", "degraded")

        wait_for(is_up, _BOOT_SECONDS, lambda: f"{self.name} boots: {stage}\n{self._jobs()}\n{self.console()}")

    def _jobs(self) -> str:
        with suppress(LabError, subprocess.TimeoutExpired):
            return self.run("systemctl", "list-jobs", check=False, timeout=10).stdout
        return ""

    def console(self) -> str:
        """What it has printed to its console, the last of it."""
        length = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), 4_000, max(0, length - 4_000)).decode(errors="replace")

    def end(self) -> None:
        """Ends it at once and removes every trace. Ending twice is harmless. Raises LabError where one is left."""
        assert self._supervisor.stdin is not None
        if self._console.closed:
            return
        self._supervisor.stdin.close()
        with self._console:
            if self._supervisor.wait(30) != 0:
                raise LabError(f"{self.name} could not be taken away:\n{self.console()}")

    def _leader(self) -> int | None:
        """The pid, on this machine, of the host's PID 1. Another one after a reboot."""
        try:
            nspawn = self._plan.nspawn_file.read_text()
        except FileNotFoundError:
            return None
        for child in here("pgrep", "--parent", nspawn, check=False).stdout.split() if nspawn else ():
            with suppress(OSError):
                status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
                # Two levels of pid namespaces, and 1 in the inner one.
                if status["Name"] == "systemd" and status["NSpid"].split()[1:] == ["1"]:
                    return int(child)
        return None
