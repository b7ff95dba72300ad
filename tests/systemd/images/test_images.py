"""The container images, built and run as the manifests of Kubernetes have it, by runc in place of a cluster.

Not part of `make lab`: `make images` runs this. It downloads what the images are made of.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support.certificates import Pki
from support.programs import BIN, ROOT, run, wait_until
from systemd.images.builder import Builder
from systemd.images.bundles import bundle
from systemd.lab.tools import here

MANIFESTS: Final = ROOT / "deploy" / "kubernetes"
AGENT: Final = ("loiter-agent", "agent-daemonset.yaml", "DaemonSet")
AGGREGATOR: Final = ("loiter", "aggregator.yaml", "StatefulSet")
SERVICE: Final = "loiter-aggregator.loiter.svc"
USER: Final = 7433
# Downloads, and two images.
pytestmark = pytest.mark.timeout(1_200)


class Pod:
    """A pod of a manifest, run by runc."""

    def __init__(self, name: str, folder: Path, container: Any) -> None:
        """Starts it."""
        self.name = f"{name}-{os.getpid()}"
        self._container = container
        self._folder = folder
        self._runc = ("runc", "--root", str(folder / "runc"))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            words = (*self._runc, "run", "--bundle", str(folder), self.name)
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, as `kubectl exec` does."""
        return run([*self._runc, "exec", self.name, *command])

    def probe(self, kind: str) -> bool:
        """Whether a probe of the manifest succeeds."""
        return self.run(*self._container[kind]["exec"]["command"]).returncode == 0

    def logged(self) -> list[dict[str, Any]]:
        """What it has logged, an object a line."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def stop(self) -> int:
        """Ends it as the kubelet does."""
        run([*self._runc, "kill", self.name, "TERM"])
        try:
            return self._process.wait(30)
        finally:
            run([*self._runc, "delete", "--force", self.name])
            self._process.wait(10)


class Node:
    """What a node has that runs pods: images, a network of its own, and the folders that pods ask for."""

    def __init__(self, folder: Path, builder: Builder) -> None:
        """Takes an empty folder."""
        self.folder = folder
        self._builder = builder
        self._network = f"node-{os.getpid()}"
        self._hosts = folder / "hosts"
        self._hosts.write_text(f"127.0.0.1 localhost {SERVICE}\n")
        self._ending = ExitStack()

    def __enter__(self) -> Node:
        here("ip", "netns", "add", self._network)
        self._ending.callback(here, "ip", "netns", "delete", self._network)
        here("ip", "-n", self._network, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @contextmanager
    def pod(self, what: tuple[str, str, str], files: dict[str, Path], **variables: str) -> Iterator[Pod]:
        """Runs the pod of a manifest, for as long as the block lasts."""
        image, file, kind = what
        (manifest,) = [one for one in yaml.safe_load_all((MANIFESTS / file).read_text()) if one["kind"] == kind]
        spec = manifest["spec"]["template"]["spec"]
        command, environment = self._builder.configuration(image)
        folder = self.folder / image
        folder.mkdir()
        with self._builder.mounted(image) as root:
            # The cluster's names: /etc/hosts is one of the mounts that every pod has.
            shutil.copy(self._hosts, root / "etc/hosts")
            variables_of_the_node = [f"{name}={value}" for name, value in variables.items()]
            network = Path("/run/netns", self._network)
            content = bundle(spec, command, environment + variables_of_the_node, files, root, network)
            (folder / "config.json").write_text(json.dumps(content))
            pod = Pod(image, folder, spec["containers"][0])
            try:
                yield pod
            finally:
                pod.stop()

    def ask(self, *question: str, ca: Path, token: Path) -> Any:
        """Asks the aggregator, from the node."""
        access = ("--server", f"{SERVICE}:7433", "--ca", ca, "--token-file", token, "-o", "json")
        words = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', self._hosts)
        done = run(["ip", "netns", "exec", self._network, *words, BIN / "loiter", *question, *access])
        return json.loads(done.stdout) if done.returncode == 0 else None


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with both images."""
    builder = Builder(tmp_path_factory.mktemp("images"))
    try:
        builder.base()
        for image, *_ in (AGENT, AGGREGATOR):
            builder.build(image)
        with Node(tmp_path_factory.mktemp("node"), builder) as one:
            yield one
    finally:
        builder.remove()


def folder_of(path: Path, user: int, mode: int, files: dict[str, bytes] | None = None) -> Path:
    """A folder as the kubelet mounts it: files and folder belong to root and the pod's group."""
    path.mkdir()
    for name, content in (files or {}).items():
        (path / name).write_bytes(content)
        os.chown(path / name, 0, user)
        (path / name).chmod(0o440)
    os.chown(path, 0, user)
    path.chmod(mode)
    return path


def token(file: Path, name: str, right: str) -> bytes:
    """A new token."""
    done = run([BIN / "loiter", "token", "add", name, "--right", right, "--tokens", file])
    assert done.returncode == 0, done.stderr
    return done.stdout.encode()


def test_an_agent_in_its_container_reports_what_the_node_has(node: Node, tmp_path: Path) -> None:
    """By TLS and with a token, under the node's name; the probes succeed, and say so when the aggregator is away."""
    pki = Pki(tmp_path / "ca")
    pki.renew_server(SERVICE, "127.0.0.1")
    tokens = tmp_path / "tokens.json"
    of_agents, of_alice = token(tokens, "agents", "ingest"), tmp_path / "alice"
    of_alice.write_bytes(token(tokens, "alice", "read"))
    of_alice.chmod(0o600)
    secret = {
        "ca.pem": pki.ca.read_bytes(),
        "certificate.pem": pki.server.certificate.read_bytes(),
        "key.pem": pki.server.key.read_bytes(),
        "tokens.json": tokens.read_bytes(),
    }
    tmp_path.chmod(0o755)
    of_the_aggregator = {
        "/run/credentials/loiter-aggregator": folder_of(tmp_path / "secret", USER, 0o750, secret),
        "/var/lib/loiter": folder_of(tmp_path / "data", USER, 0o2770),
        "/tmp": folder_of(tmp_path / "tmp", USER, 0o1777),
    }
    credentials = {"ca.pem": secret["ca.pem"], "token": of_agents}
    of_the_agent = {
        "/run/credentials/loiter-agent": folder_of(tmp_path / "credentials", 0, 0o755, credentials),
        "/var/lib/loiter-agent": folder_of(tmp_path / "state", 0, 0o755),
        "/run/loiter-agent": folder_of(tmp_path / "runtime", 0, 0o755),
        "/tmp": folder_of(tmp_path / "tmp-of-agent", 0, 0o1777),
        "/etc/machine-id": Path("/etc/machine-id"),
        "/etc/passwd": Path("/etc/passwd"),
    }
    with node.pod(AGENT, of_the_agent, LOITER_HOSTNAME="node-1", LOITER_INTERVAL="1s") as agent:
        with node.pod(AGGREGATOR, of_the_aggregator) as aggregator:
            wait_until(lambda: aggregator.probe("startupProbe"), 60, "the aggregator serves")
            assert aggregator.probe("livenessProbe")
            wait_until(lambda: agent.probe("readinessProbe"), 60, "the agent is connected")
            assert agent.probe("livenessProbe")
            host = wait_until(lambda: node.ask("host", "node-1", ca=pki.ca, token=of_alice), 30, "a report")
            assert host["labels"] == {"cluster": "example"}
            assert host["sampler"] == "sock_diag"
            # Processes of the node, outside of the container: this one is among them.
            assert host["coverage"]["processes"] > 10
            assert agent.run("sh", "-c", ": >/etc/new").returncode != 0, "the root file system is read-only"
            effective = [line for line in agent.run("cat", "/proc/self/status").stdout.splitlines() if "CapEff" in line]
            assert effective == [f"CapEff:\t{1 << 19 | 1 << 2:016x}"], "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH alone"
            assert aggregator.run("id", "-u").stdout.strip() == str(USER)
        wait_until(lambda: not agent.probe("readinessProbe"), 60, "the agent says that it is not connected")
        assert agent.probe("livenessProbe")
        assert {"time", "level", "message"} <= set(agent.logged()[-1])
