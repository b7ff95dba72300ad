"""What a process is called: its service, its program or its script, and nothing else of its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loiter_agent.identity import Identities, app_name, container_of, service_unit
from loiter_agent.procfs import Procfs
from loiter_agent.sample import Container, ProcessKey
from support.proctree_fake import ProcTree
from support.programs import wait_until

NO_PROCESS = 2**22 + 1  # above the largest pid there can be

ID = "0123456789ab" + "cdef" * 13
OTHER_ID = "f" * 64
UID = "12345678-9abc-def0-1234-56789abcdef0"
UID_ = UID.replace("-", "_")
DOCKER = Container("docker", ID[:12], None)
POD = Container("containerd", ID[:12], UID)


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


class TestContainers:
    @pytest.mark.parametrize(
        ("cgroup", "container"),
        [
            pytest.param(f"/docker/{ID}", DOCKER, id="docker, cgroupfs"),
            pytest.param(f"/system.slice/docker-{ID}.scope", DOCKER, id="docker, systemd"),
            pytest.param(f"/docker/{ID}/system.slice/nginx.service", DOCKER, id="a service in it"),
            pytest.param(f"/docker/{OTHER_ID}/docker/{ID}", DOCKER, id="docker in docker"),
            pytest.param(f"/ecs/task/{ID}", DOCKER, id="docker with a parent of one's own"),
            pytest.param(f"/kubepods/burstable/pod{UID}/{ID}", POD, id="pod, cgroupfs"),
            pytest.param(f"/kubepods/pod{UID}/{ID}", POD, id="guaranteed pod"),
            pytest.param(
                f"/system.slice/containerd.service/kubepods/besteffort/pod{UID}/{ID}", POD, id="under a service"
            ),
            pytest.param(
                f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
                POD,
                id="pod, systemd",
            ),
            pytest.param(
                f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
                POD,
                id="pod, drivers that differ",
            ),
            pytest.param(
                f"/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope",
                Container("docker", ID[:12], UID),
                id="pod of docker",
            ),
            pytest.param(
                f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container",
                Container("cri-o", ID[:12], UID),
                id="pod of cri-o",
            ),
            pytest.param(f"/../../pod{UID}/{ID}", POD, id="seen from another pod's cgroup namespace"),
            pytest.param(
                f"/../cri-containerd-{ID}.scope", Container("containerd", ID[:12], None), id="pod out of sight"
            ),
            pytest.param(f"/../{ID}", DOCKER, id="seen from another container's"),
            pytest.param(
                f"/kubepods/besteffort/pod{'0a' * 16}/{ID}",
                Container("containerd", ID[:12], "0a" * 16),
                id="static pod",
            ),
            pytest.param(f"/default/nerdctl-{ID}.scope", Container("containerd", ID[:12], None), id="nerdctl"),
            pytest.param(f"/machine.slice/libpod-{ID}.scope", Container("podman", ID[:12], None), id="podman"),
            pytest.param(
                f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
                Container("podman", ID[:12], None),
                id="podman, rootless",
            ),
            pytest.param(
                f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope",
                Container("podman", ID[:12], None),
                id="podman, pod",
            ),
            pytest.param(f"/libpod_parent/libpod-{ID}", Container("podman", ID[:12], None), id="podman, cgroupfs"),
            pytest.param(
                r"/machine.slice/machine-my\x2dbox.scope", Container("nspawn", "my-box", None), id="systemd-nspawn"
            ),
            pytest.param(
                "/machine.slice/systemd-nspawn@box.service/payload",
                Container("nspawn", "box", None),
                id="nspawn service",
            ),
            pytest.param("/lxc.payload.web1/init.scope", Container("lxc", "web1", None), id="lxc"),
            pytest.param("/system.slice/nginx.service", None, id="none"),
            pytest.param("/", None, id="root"),
            pytest.param("", None, id="unreadable"),
            pytest.param(f"/machine.slice/libpod-conmon-{ID}.scope", None, id="podman's monitor"),
            pytest.param(f"/kubepods.slice/crio-conmon-{ID}.scope", None, id="cri-o's monitor"),
            pytest.param("/lxc.monitor.web1", None, id="lxc's monitor"),
            pytest.param(r"/machine.slice/machine-qemu\x2d1\x2dvm.scope", None, id="virtual machine"),
            pytest.param("/docker/0123abcd", None, id="no id"),
            pytest.param("/system.slice/docker.service", None, id="the daemon itself"),
        ],
    )
    def test_the_cgroup_path_tells(self, cgroup: str, container: Container | None) -> None:
        """Runtime, id or name, and pod: of the innermost container."""
        assert container_of(cgroup) == container

    def test_a_name_of_any_length_is_cut(self) -> None:
        """By what may go over the wire."""
        container = container_of(f"/lxc.payload.{'x' * 5_000}")
        assert container is not None
        assert len(container.id) == 256


class TestAppName:
    @pytest.mark.parametrize(
        ("cgroup", "name"),
        [
            (f"/docker/{ID}", "docker:serve.py"),
            (f"/system.slice/containerd.service/kubepods/pod{UID}/{ID}", "containerd:serve.py"),
            (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", "podman:serve.py"),
            ("/machine.slice/systemd-nspawn@box.service/payload/system.slice/web.service", "web.service"),
            ("/lxc.payload.c1/system.slice/web.service", "web.service"),
            ("/lxc.payload.c1/init.scope", "lxc:serve.py"),
        ],
    )
    def test_a_container_is_called_like_what_it_runs(self, cgroup: str, name: str) -> None:
        """A service of its own, else runtime and program: ids differ on every host, and what runs does not."""
        assert app_name(cgroup, "/usr/bin/python3", ["python3", "/srv/serve.py", "secret"], "python3") == name

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
            tree.program(process.pid, "/usr/bin/python3", "python3", str(script), "--password", "s3cret")
            identity = Identities(Procfs(tree.root)).of(ProcessKey(process.pid, 1), "comm")
            process.kill()
        assert identity.app == "hold.py"
        assert identity.arguments is None
        assert "s3cret" not in repr(identity)

    def test_arguments_are_read_where_that_is_configured(self, tmp_path: Path) -> None:
        """In one line, UTF-8 clean, and cut to what may go over the wire."""
        tree = ProcTree(tmp_path)
        tree.add(os.getpid())
        tree.program(os.getpid(), "/usr/bin/tail", "tail", "-f", "caf\udce9")
        key = ProcessKey(os.getpid(), 1)
        assert Identities(Procfs(tree.root), arguments=True).of(key, "tail").arguments == "tail -f caf?"
        tree.program(os.getpid(), "/usr/bin/tail", "tail", "x" * 5_000)
        arguments = Identities(Procfs(tree.root), arguments=True).of(key, "tail").arguments
        assert arguments == "tail " + "x" * 251

    def test_what_was_sent_is_not_sent_any_more_once_that_is_configured(self) -> None:
        """Also of a process that is known already; it stays the same process."""
        with subprocess.Popen(["sleep", "100"]) as process:
            try:
                key = ProcessKey(process.pid, 1)
                wait_until(lambda: Procfs().command_line(process.pid), 10, "it has its command line")
                identities = Identities(Procfs(), arguments=True)
                first = identities.of(key, "sleep")
                assert first.arguments == "sleep 100"
                identities.configure(arguments=False)
                assert identities.of(key, "sleep") == replace(first, arguments=None)
                identities.configure(arguments=True)
                assert identities.of(key, "sleep") == first
            finally:
                process.kill()

    def test_a_process_without_arguments_has_none(self, tmp_path: Path) -> None:
        """It may have none, or they may not be read."""
        tree = ProcTree(tmp_path)
        tree.add(os.getpid())
        key = ProcessKey(os.getpid(), 1)
        assert Identities(Procfs(tree.root), arguments=True).of(key, "comm").arguments is None

    def test_any_hierarchy_may_tell_the_container(self, tmp_path: Path) -> None:
        """On a host with v1 hierarchies, the one systemd keeps its units in may hold the daemon's service."""
        tree = ProcTree(tmp_path)
        tree.add(os.getpid())
        tree.program(os.getpid(), "/usr/sbin/nginx", "nginx")
        tree.write(
            f"{os.getpid()}/cgroup",
            f"5:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/system.slice/docker.service\n0::/system.slice/docker.service\n",
        )
        identity = Identities(Procfs(tree.root)).of(ProcessKey(os.getpid(), 1), "nginx")
        assert (identity.app, identity.container) == ("docker:nginx", DOCKER)

    def test_a_service_needs_no_container(self, tmp_path: Path) -> None:
        """The hierarchy of systemd tells."""
        tree = ProcTree(tmp_path)
        tree.add(os.getpid(), cgroup="/system.slice/web.service")
        identity = Identities(Procfs(tree.root)).of(ProcessKey(os.getpid(), 1), "nginx")
        assert (identity.app, identity.container) == ("web.service", None)

    def test_another_program_is_told_by_its_file(self, tmp_path: Path) -> None:
        """Even where it has the name of the one before."""
        tree = ProcTree(tmp_path)
        tree.add(os.getpid())
        key, identities = ProcessKey(os.getpid(), 1), Identities(Procfs(tree.root))
        tree.program(os.getpid(), "/usr/bin/dash", "sh", "/opt/run.sh")
        before = identities.of(key, "run")
        tree.program(os.getpid(), "/opt/bin/server", "run")
        after = identities.of(key, "run")
        assert (before.app, after.app) == ("run.sh", "server")
        assert identities.of(key, "run") is after

    def test_a_process_amid_execve_is_looked_up_again(self, tmp_path: Path) -> None:
        """It has its interpreter already, and its script a moment later."""
        tree = ProcTree(tmp_path)
        tree.add(os.getpid())
        key, identities = ProcessKey(os.getpid(), 1), Identities(Procfs(tree.root))
        tree.program(os.getpid(), "/usr/bin/python3")
        assert identities.of(key, "python3").app == "python3"
        tree.program(os.getpid(), "/usr/bin/python3", "python3", "/srv/report.py")
        assert identities.of(key, "python3").app == "report.py"

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
