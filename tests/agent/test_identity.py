"""What a process is called: its service, its program or its script, and nothing else of its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loiter_agent.identity import Identities, app_name, service_unit
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessKey
from support.proctree_fake import ProcTree

NO_PROCESS = 2**22 + 1  # above the largest pid there can be


class TestServiceUnit:
    @pytest.mark.parametrize(
        ("cgroup", "unit"),
        [
            ("/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main.service"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "web.service"),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/system.slice/nginx.service/worker", "nginx.service"),
            (r"/system.slice/my\x2dapp.service", "my-app.service"),
            (r"/system.slice/caf\xc3\xa9.service", "café.service"),
            ("/system.slice/docker-0123abcd.scope", None),
            ("/", None),
            ("", None),
        ],
    )
    def test_the_innermost_service_is_found(self, cgroup: str, unit: str | None) -> None:
        """But not a user's own manager, which runs everything of that user."""
        assert service_unit(cgroup) == unit


class TestAppName:
    def test_a_service_beats_the_program(self) -> None:
        """It is what an administrator starts and stops."""
        assert (
            app_name("/system.slice/web.service", "/usr/bin/python3", ["python3", "x.py"], "python3") == "web.service"
        )

    @pytest.mark.parametrize(
        ("executable", "name"),
        [
            ("/usr/sbin/nginx", "nginx"),
            ("/usr/sbin/nginx (deleted)", "nginx"),
            ("/opt/my app/bin/run it", "run it"),
            ("/usr/bin/pythonista", "pythonista"),
        ],
    )
    def test_a_program_is_called_like_its_file(self, executable: str, name: str) -> None:
        """Also after an update has replaced the file; its arguments are not looked at."""
        assert app_name("", executable, ["whatever", "--password=secret", "secret"], "comm") == name

    def test_without_an_executable_the_command_name_stands_in(self) -> None:
        """It is not to be read for processes of other users."""
        assert app_name("", "", [], "worker") == "worker"

    @pytest.mark.parametrize(
        ("executable", "arguments", "name"),
        [
            ("/usr/bin/python3.11", ["python3", "/srv/app/serve.py", "--token", "secret"], "serve.py"),
            ("/usr/bin/python3.11", ["python3", "-u", "serve.py"], "serve.py"),
            ("/usr/bin/python3.11", ["python3", "-W", "ignore", "serve.py", "secret"], "serve.py"),
            ("/usr/bin/python3.11", ["python3", "-X", "dev", "-m", "http.server", "8000"], "http.server"),
            ("/usr/bin/python3.11", ["python3", "-m", "gunicorn", "app:secret"], "gunicorn"),
            ("/usr/bin/python3.11", ["python3", "-c", "print('secret')", "secret"], "python3.11"),
            ("/usr/bin/python3.11", ["python3", "-", "secret"], "python3.11"),
            ("/usr/bin/python3.11", ["python3"], "python3.11"),
            ("/usr/bin/python3.11", ["python3", "-m"], "python3.11"),
            ("/usr/bin/python3.11", ["python3", "/dev/fd/3", "secret"], "python3.11"),
            ("/usr/bin/python3.11", ["python3", "/proc/self/fd/3", "secret"], "python3.11"),
            ("/usr/bin/python3.11", ["python3", "-uc", "secret"], "python3.11"),
            ("/usr/bin/python3.11", ["python3", "-I", "serve.py", "secret"], "serve.py"),
            ("/usr/bin/python3.11", ["python3", "-um", "secret"], "python3.11"),
            ("/usr/bin/bash", ["bash", "-lc", "curl -H token=secret"], "bash"),
            ("/usr/bin/bash", ["bash", "-s", "--", "secret"], "bash"),
            ("/usr/bin/bash", ["bash", "-e", "/srv/run.sh", "secret"], "run.sh"),
            ("/usr/bin/perl", ["perl", "-ne", "secret"], "perl"),
            ("/usr/bin/node", ["node", "-p", "secret"], "node"),
            ("/usr/bin/node", ["node", "--eval", "secret"], "node"),
            ("/usr/bin/node", ["node", "--import", "./x.mjs", "app.js"], "app.js"),
            ("/usr/bin/php", ["php", "-r", "secret", "secret"], "php"),
            ("/usr/bin/python3.11", [], "python3.11"),
            ("/usr/bin/perl", ["perl", "-e", "secret"], "perl"),
            ("/usr/bin/node", ["node", "--require", "./secret.js", "server.js"], "server.js"),
            ("/usr/bin/node", ["node", "--max-old-space-size=4096", "/srv/server.js"], "server.js"),
            ("/usr/bin/ruby3.1", ["ruby", "/usr/bin/puma", "-C", "secret"], "puma"),
            ("/bin/dash", ["sh", "/opt/run.sh", "secret"], "run.sh"),
            ("/bin/bash", ["bash"], "bash"),
        ],
    )
    def test_an_interpreter_is_called_like_its_script(self, executable: str, arguments: list[str], name: str) -> None:
        """Or like the module; code, options and arguments are never part of the name."""
        assert app_name("", executable, arguments, "comm") == name


class TestIdentities:
    def test_this_process_is_identified(self) -> None:
        """By what the kernel and the user database say."""
        procfs = Procfs()
        key = ProcessKey(os.getpid(), procfs.stat(os.getpid()).start_ticks)
        identity = Identities(procfs).of(key, "comm")
        assert identity.user is not None
        assert identity.name != ""
        assert timedelta() < datetime.now(UTC) - identity.start_time < timedelta(days=1)

    def test_arguments_do_not_leak_into_names(self, tmp_path: Path) -> None:
        """A script is known by its name; what it was given stays with it."""
        script = tmp_path / "hold.py"
        script.write_text("input()")
        with subprocess.Popen([sys.executable, script, "--password", "s3cret"], stdin=subprocess.PIPE) as process:
            tree = ProcTree(tmp_path)
            tree.add(process.pid)  # in no service's cgroup
            identity = Identities(Procfs(tree.root)).of(ProcessKey(process.pid, 1), "comm")
            process.kill()
        assert identity.app in ("hold.py", os.path.basename(sys.executable))
        assert "s3cret" not in repr(identity)

    def test_a_process_that_has_ended_keeps_its_command_name(self, tmp_path: Path) -> None:
        """Name and application are what the scan saw; the user is unknown."""
        identity = Identities(Procfs(tmp_path)).of(ProcessKey(NO_PROCESS, 100), "worker")
        assert (identity.name, identity.app, identity.user) == ("worker", "worker", None)

    def test_what_was_found_is_kept_until_the_process_is_gone(self, tmp_path: Path) -> None:
        """The same object comes back; after it is forgotten, another."""
        identities = Identities(Procfs(tmp_path))
        key = ProcessKey(NO_PROCESS, 100)
        first = identities.of(key, "worker")
        identities.forget_all_but([key])
        assert identities.of(key, "worker") is first
        identities.forget_all_but([])
        assert identities.of(key, "worker") is not first

    def test_another_program_gets_another_name_and_keeps_the_start_time(self, tmp_path: Path) -> None:
        """execve(2) does not make another process of it."""
        identities = Identities(Procfs(tmp_path))
        key = ProcessKey(NO_PROCESS, 100)
        before, after = identities.of(key, "sh"), identities.of(key, "server")
        assert (before.app, after.app) == ("sh", "server")
        assert after.start_time is before.start_time
