"""The packages of Debian on hosts that have Debian's python3 and no network but the fleet's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

from loiter.service_install.units import make_unit
from support.programs import BIN, ROOT
from systemd.debs import EARLIER, LATER, Debs, renumbered
from systemd.lab import Fleet, Host
from systemd.lab.tools import here
from systemd.services import EVERY_SECOND, Aggregator, install, introduce, pid, serve, show, status

(PREVIOUS,) = (ROOT / "tests/fixtures/releases").glob("loiter-*-py3-none-any.whl")
UNIT: Final = ROOT / "deploy/systemd/loiter-agent.service"
SECONDS_TO_APPEAR: Final = 30

# What dpkg, apt, debconf and systemd write down of their own accord, whatever is installed.
RECORDS: Final = (
    r"/etc/(passwd|group|shadow|gshadow)-",  # how these files were before the last change
    r"/var/cache/apt/(archives|archives/lock|archives/partial|pkgcache\.bin|srcpkgcache\.bin)",
    r"/var/cache/debconf/(config|templates)\.dat-old",
    r"/var/lib/apt/(extended_states|lists/auxfiles)",
    r"/var/lib/dpkg/status(-old)?",  # the list of packages, which is compared by itself
    r"/var/lib/dpkg/info/(?!loiter)[^/]+\.list",  # of other packages, which dpkg writes anew in another order
    r"/var/log/(dpkg\.log|apt/(eipp\.log\.xz|history\.log|term\.log)|journal/.*)",
)
# Their owner and mode are compared, and not when a folder was changed.
_LOOK: Final = """
cd / && find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp \\) \
  -prune -o \\( -type f -exec sha256sum {} + -o ! -type f -printf '%y %l  %p\\n' \\)
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \\) \
  -prune -o -printf '%M %U %G  .%p\\n'
"""


@pytest.fixture(scope="module")
def aggregator(fleet: Fleet, debs: Debs) -> Aggregator:
    """An aggregator with TLS and tokens, set up as the guide has it."""
    return serve(fleet.host("agg"), debs.aggregator)


@pytest.fixture
def bare(fleet: Fleet) -> Iterator[Host]:
    """A host without any of this, and that it is without again."""
    host = fleet.host("bare")
    yield host
    purge(host)


def purge(host: Host) -> None:
    """Takes both packages away with all that is theirs."""
    host.run("dpkg", "--purge", "loiter-agent", "loiter-aggregator", timeout=120)


def starts(host: Host, unit: str) -> int:
    """How often a unit has been started."""
    return host.run("journalctl", "-u", unit, "-o", "cat", "_PID=1").stdout.count("Started ")


@dataclass(frozen=True)
class Epoch:
    """What a store holds of one run of an agent, which numbers its samples from 1."""

    host: str
    samples: int
    different: int
    first: int
    last: int

    @property
    def is_whole(self) -> bool:
        """Whether none is missing between the first and the last, and none is there twice."""
        return self.first == 1 and self.samples == self.different == self.last


def sequences(host: Host, library: str = "/usr/lib/loiter-aggregator") -> list[Epoch]:
    """What is in the store of an aggregator that has ended, in the order of time."""
    query = f"""
import sys
sys.path.append("{library}")
import duckdb, json
store = duckdb.connect("/var/lib/loiter/loiter.duckdb", read_only=True)
rows = store.execute('''SELECT hostname, count(*), count(DISTINCT sequence), min(sequence), max(sequence)
  FROM host_sample JOIN host USING (host_key) GROUP BY hostname, spool_epoch ORDER BY min(ts)''').fetchall()
print(json.dumps(rows))
"""
    return [Epoch(*row) for row in json.loads(host.run("python3", "-BIS", "-c", query).stdout)]


def waiting(host: Host) -> int:
    """How many reports an agent that runs as root has on its disk, by a copy: it keeps the file to itself."""
    query = """
import shutil, sqlite3
shutil.copytree("/var/lib/loiter-agent", "/tmp/copy", dirs_exist_ok=True)
print(sqlite3.connect("/tmp/copy/spool.db").execute("SELECT count(*) FROM report").fetchone()[0])
"""
    # It fails where the files change as they are copied.
    return int(host.run("python3", "-c", query, check=False).stdout or 0)


def files(host: Host) -> set[str]:
    """Every file of a host with what is in it, whose it is and who may read it; but for records."""
    lines = host.run("sh", "-c", _LOOK, timeout=120).stdout.splitlines()
    record = re.compile(rf".*  \.({'|'.join(RECORDS)})")
    return {line for line in lines if record.fullmatch(line) is None}


def test_removing_keeps_what_purging_takes_away(bare: Host, debs: Debs) -> None:
    """After a purge, the host is as it was: no file, no user, no unit."""
    host = bare
    for package in (debs.agent, debs.aggregator):
        host.push(package, "/root")
    before, units = files(host), host.run("systemctl", "list-unit-files", "--no-legend").stdout
    users = host.run("getent", "passwd").stdout + host.run("getent", "group").stdout
    packages = host.run("dpkg-query", "--show").stdout

    install(host, debs.agent)
    serve(host, debs.aggregator)
    secrets = ("--ca", "/etc/loiter/ca.pem", "--token-file", "/etc/loiter/ingest.token")
    host.run("loiter-agent", "install", "--server", "bare:7433", *secrets, "--with", "namespaces", timeout=120)
    host.write("/etc/systemd/system/loiter-aggregator.service.d/ours.conf", "[Service]\nNice=5\n")
    assert "loiter:" in host.run("getent", "passwd").stdout

    host.run("apt-get", "remove", "-y", "loiter-agent", "loiter-aggregator", timeout=120)
    assert host.run("systemctl", "is-active", "loiter-agent", check=False).stdout.strip() == "inactive"
    kept = ("/etc/loiter/agent.toml", "/etc/loiter/aggregator.toml", "/etc/credstore/loiter-agent.token")
    host.run("ls", *kept, "/var/lib/loiter/loiter.duckdb")
    assert host.run("sh", "-c", "ls -A /var/lib/private/loiter-agent").stdout
    assert host.run("sh", "-c", "ls -d /usr/lib/loiter* /usr/bin/loiter*", check=False).stdout == ""

    copies = ("/etc/loiter/agent.toml.mine", "/etc/credstore/loiter-agent.token.mine")
    for copy in copies:
        host.write(copy, "mine")
    host.run("cp", "/var/lib/dpkg/info/loiter-aggregator.postrm", "/run/postrm")
    mounted = "/var/lib/private/loiter-agent"  # such a folder can not be removed
    host.run("mount", "-t", "tmpfs", "none", mounted)
    host.write(f"{mounted}/spool.db", "")
    host.run("apt-get", "purge", "-y", "loiter-agent", "loiter-aggregator", timeout=120)
    assert host.run("ls", "-A", mounted).stdout == ""
    host.run("sh", "-c", f"umount {mounted} && rm -r {mounted}")
    host.run("rm", *copies)
    host.run("rmdir", "/etc/loiter", "/etc/credstore")
    assert sorted(files(host) ^ before) == []
    assert host.run("dpkg-query", "--show").stdout == packages
    assert host.run("systemctl", "list-unit-files", "--no-legend").stdout == units
    assert host.run("systemctl", "list-units", "--all", "--no-legend", "loiter*").stdout == ""
    assert host.run("getent", "passwd").stdout + host.run("getent", "group").stdout == users
    host.run("useradd", "--system", "loiter")  # somebody else's
    host.run("sh", "/run/postrm", "purge")
    host.run("userdel", "loiter")
    assert host.run("sh", "-c", "ls -d /run/loiter*", check=False).stdout == ""


def test_an_agent_reports_within_half_a_minute_of_one_command(fleet: Fleet, debs: Debs, aggregator: Aggregator) -> None:
    """With settings and secrets that were put there before, which the package leaves as they are."""
    host = fleet.host("web1")
    introduce(host, aggregator)
    before = host.run("sha256sum", "/etc/loiter/agent.toml").stdout
    install(host, debs.agent)
    host.wait(lambda: aggregator.version_of("web1"), SECONDS_TO_APPEAR)
    assert host.run("sha256sum", "/etc/loiter/agent.toml").stdout == before
    assert host.run("systemctl", "is-enabled", "loiter-agent").stdout.strip() == "enabled"
    assert host.run("dpkg", "--verify", "loiter-agent").stdout == ""
    assert show(host, "NRestarts") == "0"


def test_what_runs_is_what_the_package_holds(fleet: Fleet, debs: Debs, aggregator: Aggregator) -> None:
    """Neither a variable of the environment, nor Debian's packages of Python, nor a user's lead it astray."""
    host = fleet.host("web1")
    introduce(host, aggregator)
    install(host, debs.agent)
    astray = "raise SystemExit('astray')"
    places = ("/root/astray", "/root/.local/lib/python3.11/site-packages", "/usr/lib/python3/dist-packages")
    for place in places:
        host.write(f"{place}/loiter_agent/__init__.py", astray)
    environment = ("env", "PYTHONPATH=/root/astray", "PYTHONDONTWRITEBYTECODE=")
    sampled = host.run(*environment, "loiter-agent", "sample", "-o", "json").stdout
    assert json.loads(sampled)["host"]["hostname"] == "web1"
    host.run("rm", "-r", *(f"{place}/loiter_agent" for place in places))
    # Nor was anything compiled on the way.
    assert host.run("dpkg", "--verify", "loiter-agent").stdout == ""
    shipped = host.run("dpkg", "--listfiles", "loiter-agent").stdout.splitlines()
    assert set(host.run("find", "/usr/lib/loiter-agent").stdout.splitlines()) <= set(shipped)


def test_the_script_of_the_rpm_enables_the_service_where_systemd_does_not_run(bare: Host, debs: Debs) -> None:
    """As where an image is built: it is to start when that boots."""
    install(bare, debs.agent)
    bare.run("systemctl", "disable", "loiter-agent")
    spec = (ROOT / "deploy/rpm/loiter.spec").read_text()
    script = spec.partition("\n%post agent\n")[2].partition("\n%")[0]
    bare.run("unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /run && set -- 1 && {script}")
    assert bare.run("systemctl", "is-enabled", "loiter-agent").stdout.strip() == "enabled"


@pytest.mark.parametrize("way", ["environment", "debconf"])
def test_the_server_can_be_said_beforehand(bare: Host, debs: Debs, way: str) -> None:
    """To apt itself, or by an answer that is given to debconf before."""
    if way == "debconf":
        bare.run("debconf-set-selections", input="loiter-agent loiter-agent/server string agg:7433, agg2:7433\n")
        install(bare, debs.agent)
    else:
        install(bare, debs.agent, before=("env", "LOITER_SERVER=agg:7433, agg2:7433"))
    settings = bare.run("cat", "/etc/loiter/agent.toml").stdout
    assert settings.startswith('server = "agg:7433, agg2:7433"\n')
    assert bare.run("systemctl", "is-active", "loiter-agent").stdout.strip() == "active"


def test_what_is_in_the_way_of_the_package_is_said(bare: Host, debs: Debs) -> None:
    """A server that is none, which is not taken, and a unit of another installation, which a purge takes along."""
    unit = "/etc/systemd/system/loiter-agent.service"
    command = ("/opt/loiter/bin/loiter-agent",)
    made = make_unit(UNIT.read_text(), "/usr/bin/loiter-agent", command, "loiter-agent install")
    bare.write(unit, made.decode())
    said = install(bare, debs.agent, before=("env", "LOITER_SERVER=agg"))
    assert "'agg' is not HOST:PORT" in said
    assert "the service runs /opt/loiter/bin/loiter-agent run." in said
    assert bare.run("cat", "/etc/loiter/agent.toml").stdout.startswith("#")
    purge(bare)
    assert bare.run("ls", unit, check=False).returncode != 0


def test_without_an_answer_it_says_where_it_reports_to(bare: Host, debs: Debs) -> None:
    """And every setting is in the file, commented out."""
    assert "loiter-agent install --server HOST:PORT" in install(bare, debs.agent)
    settings = bare.run("cat", "/etc/loiter/agent.toml").stdout
    assert all(line.startswith("#") or not line for line in settings.splitlines())
    assert '#server = ["127.0.0.1:7433"]' in settings
    assert bare.run("systemctl", "is-active", "loiter-agent").stdout.strip() == "active"


def test_an_upgrade_loses_no_sample_and_keeps_settings(
    fleet: Fleet, debs: Debs, aggregator: Aggregator, tmp_path: Path
) -> None:
    """The agent restarts once, then the aggregator; every report that was numbered is in the store once."""
    host = fleet.host("web1")
    purge(host)
    introduce(host, aggregator, EVERY_SECOND + "# ours\n")
    install(host, renumbered(debs.agent, EARLIER, tmp_path))
    host.wait(lambda: aggregator.version_of("web1") == EARLIER, SECONDS_TO_APPEAR)
    first = pid(host)
    started = starts(host, "loiter-agent")
    ticks = status(host)["ticks"]
    settings = host.run("cat", "/etc/loiter/agent.toml").stdout

    install(host, debs.agent)
    host.wait(lambda: aggregator.version_of("web1") not in (None, EARLIER), SECONDS_TO_APPEAR)
    assert pid(host) != first
    assert starts(host, "loiter-agent") == started + 1
    assert host.run("cat", "/etc/loiter/agent.toml").stdout == settings

    served = aggregator.host.run("cat", "/etc/loiter/aggregator.toml").stdout
    install(aggregator.host, renumbered(debs.aggregator, LATER, tmp_path))
    aggregator.host.wait(lambda: aggregator.ask("fleet")["aggregator"]["version"] == LATER, 30)
    assert aggregator.host.run("cat", "/etc/loiter/aggregator.toml").stdout == served
    since = aggregator.ask("host", "web1")["last_report"]
    host.wait(lambda: aggregator.ask("host", "web1")["last_report"] > since, SECONDS_TO_APPEAR)

    assert aggregator.ask("fleet")["losing_hosts"] == []
    assert aggregator.ask("fleet")["aggregator"]["reports_rejected"] == 0
    aggregator.host.run("systemctl", "stop", "loiter-aggregator")
    *_, before, after = (epoch for epoch in sequences(aggregator.host) if epoch.host == "web1")
    aggregator.host.run("systemctl", "start", "loiter-aggregator")
    assert before.is_whole, "all until the agent was restarted"
    assert before.samples >= ticks
    assert after.is_whole, "all since"


def test_the_spool_and_the_store_of_the_release_before_are_taken_over(fleet: Fleet, debs: Debs, tmp_path: Path) -> None:
    """It was run by hand as root; what its agent had not delivered yet is delivered by the new one."""
    host = fleet.host("old")
    old = "/opt/old/usr/lib/loiter-aggregator"
    host.push(debs.aggregator, "/root")
    host.run("dpkg-deb", "--extract", f"/root/{debs.aggregator.name}", "/opt/old", timeout=120)
    host.run("sh", "-c", f"rm -r {old}/loiter {old}/loiter_aggregator")
    with ZipFile(PREVIOUS) as wheel:
        wheel.extractall(tmp_path / "previous")
    for module in ("loiter", "loiter_agent", "loiter_aggregator"):
        host.push(tmp_path / "previous" / module, old)
    # The agent's own libraries are those of the other package.
    host.push(debs.agent, "/root")
    host.run("dpkg-deb", "--extract", f"/root/{debs.agent.name}", "/opt/agent", timeout=120)

    def command(module: str, *arguments: str) -> list[str]:
        path = f"import sys; sys.path[:0] = ['{old}', '/opt/agent/usr/lib/loiter-agent']"
        return ["python3", "-BIS", "-c", f"{path}; from {module}.__main__ import main; main()", *arguments]

    def start(unit: str, module: str, *arguments: str) -> None:
        host.run("systemd-run", f"--unit={unit}", "--collect", *command(module, *arguments))

    def stored() -> int:
        asked = host.run(*command("loiter_aggregator", "host", "old", "-o", "json"), check=False)
        return int(json.loads(asked.stdout)["samples"]) if asked.returncode == 0 else 0

    def journal(unit: str) -> str:
        return host.run("journalctl", "-u", unit, "-n", "20", "-o", "cat").stdout

    start("old-serve", "loiter_aggregator", "serve", "--data-dir", "/var/lib/loiter")
    start("old-agent", "loiter_agent", "run", "--interval", "1s")
    host.wait(lambda: stored() >= 3, 30, lambda: journal("old-agent"))
    host.run("systemctl", "stop", "old-serve")
    host.wait(lambda: waiting(host) >= 3, 30, lambda: journal("old-agent"))
    host.run("systemctl", "stop", "old-agent")
    [delivered] = sequences(host, old)

    install(host, debs.aggregator, debs.agent)
    local = Aggregator(host)
    version = host.run("loiter-agent", "--version").stdout.split()[1]
    host.wait(lambda: local.version_of("old") == version, SECONDS_TO_APPEAR)
    assert local.ask("fleet")["losing_hosts"] == []
    # That of the last tick may be on its way as the status is written.
    host.wait(lambda: status(host)["waiting_reports"] <= 1, SECONDS_TO_APPEAR, lambda: str(status(host)))
    host.run("systemctl", "stop", "loiter-agent", "loiter-aggregator")
    [by_old, by_new] = sequences(host)
    assert by_old.is_whole, "what the old store held, and what the old agent kept"
    assert by_old.samples >= delivered.samples + 2
    assert by_new.is_whole
    assert host.run("stat", "--format=%U", "/var/lib/loiter/loiter.duckdb").stdout.strip() == "loiter"


def test_the_wheelhouse_installs_where_there_is_neither_pip_nor_a_network(fleet: Fleet, tmp_path: Path) -> None:
    """By its own pip, which is not installed; a second run upgrades; what is damaged is not installed."""
    here("env", f"PIP={BIN / 'python'} -m pip", ROOT / "deploy/wheelhouse/build.sh", tmp_path, seconds=300)
    [tarball] = tmp_path.glob("*.tar.gz")
    host = fleet.host("bare")
    host.push(tarball, "/root")
    host.push(tarball.with_name(f"{tarball.name}.sha256"), "/root")
    host.run("sh", "-c", "cd /root && sha256sum --check *.sha256 && tar -xzf *.tar.gz && mv loiter-*/ wheelhouse")
    assert host.run("python3", "-m", "pip", "--version", check=False).returncode != 0

    said = host.run("sh", "/root/wheelhouse/install.sh", "agent").stdout
    assert "/opt/loiter/bin/loiter-agent install --server" in said
    assert json.loads(host.run("/opt/loiter/bin/loiter-agent", "sample", "-o", "json").stdout)["host"]
    said = host.run("sh", "/root/wheelhouse/install.sh", "aggregator").stdout
    assert "/opt/loiter/bin/loiter service install" in said
    assert host.run("/opt/loiter/bin/loiter", "--version").stdout.startswith("loiter ")

    host.run("sh", "-c", "echo >>/root/wheelhouse/agent.txt")
    damaged = host.run("sh", "/root/wheelhouse/install.sh", "agent", "/opt/other", check=False)
    assert damaged.returncode == 1
    assert "copy the tarball again" in damaged.stderr
    assert host.run("ls", "/opt/other", check=False).returncode != 0
