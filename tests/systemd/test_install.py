"""`loiter-agent install` and `loiter service install` on hosts with a systemd of their own: done, again, and undone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loiter.version import version
from support.certificates import Pki
from systemd.debs import Debs
from systemd.environment import FOLDER, environment_layer
from systemd.lab import Fleet
from systemd.lab.host import Host

AGENT = f"{FOLDER}/bin/loiter-agent"
LOITER = f"{FOLDER}/bin/loiter"
# What changes by itself while a host runs.
RESTLESS = (
    "/var/tmp/*",
    "/var/log/*",
    "/var/lib/systemd/*",
    "/var/cache/*",
    "/var/lib/private/loiter-agent/*",
    "/var/lib/loiter/*",
)


@pytest.fixture(scope="module")
def fleet(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:  # noqa: ARG001
    """A fleet whose hosts have this tree in /opt/loiter, and none of it installed as a service."""
    with Fleet(layers=[environment_layer(tmp_path_factory.mktemp("layer"))]) as one:
        yield one


@pytest.fixture(scope="module")
def aggregator(fleet: Fleet) -> Host:
    """A host with the aggregator, installed by its name."""
    host = fleet.host("agg")
    host.run(LOITER, "service", "install", "--name", "agg", timeout=120)
    return host


@pytest.fixture(scope="module")
def flags(aggregator: Host) -> dict[str, str]:
    """What an agent needs to report to it: the files, by the flag."""
    return {
        "--ca": aggregator.run("cat", "/etc/loiter/ca.pem").stdout,
        "--token-file": aggregator.run("cat", "/etc/loiter/ingest.token").stdout,
    }


def given(host: Host, flags: dict[str, str]) -> list[str]:
    """Puts the files on a host, and returns the flags that name them."""
    words = ["--server", "agg:7433", "--interval", "1s"]
    for flag, text in flags.items():
        file = f"/run/given{flag}"  # not where traces are looked for
        host.write(file, text, 0o600)
        words += [flag, file]
    return words


def paths(host: Host) -> set[str]:
    """Every file and folder of a host."""
    excluded = [word for pattern in RESTLESS for word in ("-not", "-path", pattern)]
    return set(host.run("find", "/", "-xdev", *excluded, "-printf", "%p %y %m %u\\n").stdout.splitlines())


def contents(host: Host) -> str:
    """A hash of each file that programs or their settings may lie in."""
    excluded = " ".join(f"-not -path '{pattern}'" for pattern in RESTLESS)
    script = f"find /etc /usr /var -xdev -type f {excluded} -exec sha256sum {{}} + | sort"
    return host.run("sh", "-c", script).stdout


def state(host: Host, unit: str) -> tuple[str, str]:
    """Whether a unit runs, and whether it will after a boot."""
    active = host.run("systemctl", "is-active", unit, check=False).stdout.strip()
    return active, host.run("systemctl", "is-enabled", unit, check=False).stdout.strip()


def checks(host: Host) -> dict[str, str]:
    """How each check stands."""
    document = json.loads(host.run(AGENT, "check", "-o", "json", check=False).stdout)
    return {row["check"]: row["state"] for row in document["checks"]} | {"rights": document["rights_of"]}


def test_a_dry_run_shows_everything_and_changes_nothing(fleet: Fleet) -> None:
    host = fleet.host("dry")
    before, hashes = paths(host), contents(host)
    agent = host.run(AGENT, "install", "--server", "agg.invalid:7433", "--label", "role=web", "--dry-run").stdout
    assert "agg.invalid can not be resolved" in agent
    assert '    +server = ["agg.invalid:7433"]' in agent
    assert "run systemctl restart loiter-agent.service" in agent
    service = host.run(LOITER, "service", "install", "--name", "dry", "--dry-run").stdout
    assert "make token fleet, which allows to ingest, in /etc/loiter/ingest.token" in service
    assert host.run(AGENT, "uninstall", "--purge", "--dry-run").stdout == "nothing to do\n"
    assert (paths(host) ^ before, contents(host) == hashes) == (set(), True)


def test_the_commands_it_prints_take_a_host_from_nothing_to_a_ranking(
    fleet: Fleet, aggregator: Host, flags: dict[str, str]
) -> None:
    printed = aggregator.run(LOITER, "service", "install").stdout
    assert "nothing to do\n" in printed
    install, look = re.findall(r"^    (loiter.*)$", printed, re.MULTILINE)
    host = fleet.host("web1")
    host.write("/run/x/ca.pem", flags["--ca"])
    host.write("/run/x/ingest.token", flags["--token-file"], 0o600)
    installed = host.run("sh", "-c", f"cd /run/x && PATH={FOLDER}/bin:$PATH {install} --label role=web")
    assert re.search(r"agg:7433 has acknowledged \d+ report", installed.stdout)
    assert state(host, "loiter-agent") == ("active", "enabled")
    ranking = aggregator.run("sh", "-c", f"PATH={FOLDER}/bin:$PATH {look}").stdout
    assert "loiter-agent.service" in ranking
    assert "1 of 1 hosts reporting" in ranking


def test_a_second_run_makes_nothing_anew_and_still_looks(fleet: Fleet, aggregator: Host, flags: dict[str, str]) -> None:
    secrets = ("sh", "-c", "cd /etc && find loiter credstore -type f -exec sha256sum {} + | sort")
    before = aggregator.run(*secrets).stdout
    assert "nothing to do\n" in aggregator.run(LOITER, "service", "install", "--name", "agg").stdout
    assert aggregator.run(*secrets).stdout == before
    host = fleet.host("web1")
    words = given(host, flags)
    host.run(AGENT, "install", *words)
    started, files = host.run("systemctl", "show", "-P", "MainPID", "loiter-agent").stdout, contents(host)
    again = host.run(AGENT, "install", *words).stdout
    assert "nothing to do\n" in again
    assert "loiter-agent.service is running" in again
    assert host.run("systemctl", "show", "-P", "MainPID", "loiter-agent").stdout == started
    assert contents(host) == files


def test_after_an_upgrade_of_its_files_a_running_service_is_that_of_the_new_release(
    fleet: Fleet, aggregator: Host, flags: dict[str, str]
) -> None:
    """As pip does it, which writes all files anew."""
    host = fleet.host("web1")
    host.run(AGENT, "install", *given(host, flags))
    library = f"{FOLDER}/lib/python3.11/site-packages/loiter"
    for one, command, unit in (
        (host, (AGENT, "install"), "loiter-agent"),
        (aggregator, (LOITER, "service", "install"), "loiter-aggregator"),
    ):
        files = {name: one.run("cat", f"{library}/{name}").stdout for name in ("__init__.py", "version.py")}
        pids = [one.run("systemctl", "show", "-P", "MainPID", unit).stdout]
        for old, new in ((version(), "9.9.9"), (version(), version())):
            for name, text in files.items():
                one.write(f"{library}/{name}", text.replace(old, new))
            assert f"run systemctl restart {unit}" in one.run(*command, timeout=90).stdout
            assert "nothing to do\n" in one.run(*command).stdout
            pids.append(one.run("systemctl", "show", "-P", "MainPID", unit).stdout)
            if one is host:
                assert json.loads(one.run("cat", "/run/loiter-agent/status.json").stdout)["version"] == new
        assert len(set(pids)) == 3


def test_a_token_that_was_handed_out_and_removed_is_not_in_the_way(aggregator: Host) -> None:
    token = aggregator.run("cat", "/etc/loiter/read.token").stdout
    aggregator.run("rm", "/etc/loiter/read.token")
    again = aggregator.run(LOITER, "service", "install").stdout
    aggregator.write("/etc/loiter/read.token", token, 0o600)
    assert "nothing to do\n" in again
    assert "loiter token revoke operator && loiter service install\n" in again


def test_check_tells_what_the_service_sees_and_more_rights_change_it(fleet: Fleet, flags: dict[str, str]) -> None:
    host = fleet.host("web1")
    host.run(AGENT, "install", *given(host, flags))
    host.run("ip", "netns", "add", "other")
    host.run("systemd-run", "--unit=inside", "ip", "netns", "exec", "other", "sleep", "600")
    seen = checks(host)
    needed = (
        "capabilities",
        "sock_diag",
        "CLOSE_WAIT details",
        "processes",
        "service",
        "server",
        "authority",
        "reports",
    )
    assert {name: seen[name] for name in needed} == dict.fromkeys(needed, "ok")
    assert (seen["rights"], seen["namespaces"]) == ("loiter-agent.service", "limited")
    assert host.run(AGENT, "check", check=False).returncode == 0
    host.run(AGENT, "install", "--with", "namespaces")
    assert checks(host)["namespaces"] == "ok"
    anybody = host.run("setpriv", "--reuid=65534", "--clear-groups", AGENT, "check", check=False)
    assert "not tried: only root can read" in anybody.stdout
    assert "Traceback" not in anybody.stderr
    host.run("systemctl", "stop", "loiter-agent")
    assert host.run(AGENT, "check", check=False).returncode == 1
    host.run(AGENT, "install")
    assert checks(host)["service"] == "ok"


def test_what_waiting_would_not_mend_is_named_and_nothing_is_written(
    fleet: Fleet, aggregator: Host, flags: dict[str, str], tmp_path: Path
) -> None:
    host = fleet.host("web2")
    before = paths(host)
    stranger = Pki(tmp_path / "ca", "stranger").ca.read_text()
    for wrong, said in (
        ({**flags, "--ca": stranger}, "the server's certificate is issued by 'loiter', an authority that"),
        ({**flags, "--token-file": f"loiter_0123abcd_{'0' * 64}\n"}, "the token is unknown"),
        ({"--ca": flags["--ca"]}, "token"),
    ):
        done = host.run(AGENT, "install", *given(host, wrong), check=False)
        assert done.returncode == 1
        assert said in done.stdout
        assert "nothing was changed" in done.stderr
    by_address = ("install", "--server", f"{aggregator.address}:7433", *given(host, flags)[2:])
    assert "is for agg, not for" in host.run(AGENT, *by_address, check=False).stdout
    assert paths(host) ^ before == set()


def test_while_the_aggregator_is_away_the_service_is_installed_and_the_exit_status_tells(
    fleet: Fleet, aggregator: Host, flags: dict[str, str]
) -> None:
    host = fleet.host("web2")
    aggregator.run("systemctl", "stop", "loiter-aggregator")
    try:
        done = host.run(AGENT, "install", *given(host, flags), "--timeout", "3s", check=False)
        assert done.returncode == 1
        assert "Connection refused; it is tried again" in done.stdout
        assert "installed, but no report was acknowledged within 3 s" in done.stderr
        assert "The service stays" in done.stderr
        assert state(host, "loiter-agent") == ("active", "enabled")
        assert checks(host)["server"] == "missing"
    finally:
        aggregator.run("systemctl", "start", "loiter-aggregator")
    assert "nothing to do\n" in host.run(AGENT, "install", timeout=90).stdout
    host.run(AGENT, "uninstall", "--purge")


def test_a_start_that_fails_is_undone(fleet: Fleet, flags: dict[str, str]) -> None:
    """The folder of the service's state can not be made, since a file is in its place."""
    host = fleet.host("web2")
    host.write("/var/lib/private/loiter-agent", "in the way", 0o700)
    before, hashes = paths(host), contents(host)
    done = host.run(AGENT, "install", *given(host, flags), check=False)
    after, now = paths(host), contents(host)
    host.run("rm", "/var/lib/private/loiter-agent")
    assert done.returncode == 1
    assert "systemctl restart loiter-agent.service failed" in done.stderr
    assert "what was done is undone" in done.stderr
    assert "log: " in done.stderr
    assert (after ^ before, now == hashes) == (set(), True)
    assert state(host, "loiter-agent")[0] == "inactive"
    assert "loiter-agent" not in host.run("systemctl", "list-units", "--all", "--failed").stdout


def test_a_change_that_fails_brings_back_the_service_of_before(fleet: Fleet, flags: dict[str, str]) -> None:
    host = fleet.host("web2")
    host.run(AGENT, "install", *given(host, flags))
    before, hashes = paths(host), contents(host)
    drop_in = f"{FOLDER}/lib/python3.11/site-packages/loiter/systemd/loiter-agent.service.d/namespaces.conf"
    whole = host.run("cat", drop_in).stdout
    host.write(drop_in, "[Service]\nExecStartPre=/bin/false\n")
    done = host.run(AGENT, "install", "--with", "namespaces", "--interval", "2s", check=False)
    host.write(drop_in, whole)
    assert done.returncode == 1
    assert "what was done is undone" in done.stderr
    assert (paths(host) ^ before, contents(host) == hashes) == (set(), True)
    assert state(host, "loiter-agent") == ("active", "enabled")
    assert "nothing to do\n" in host.run(AGENT, "install").stdout
    host.run(AGENT, "uninstall", "--purge")


def test_a_unit_made_by_hand_is_shown_and_replaced_only_by_force(fleet: Fleet, flags: dict[str, str]) -> None:
    host = fleet.host("web2")
    unit = "/etc/systemd/system/loiter-agent.service"
    host.write(unit, "[Service]\nExecStart=/bin/sleep 600\n")
    host.run("systemctl", "daemon-reload")
    done = host.run(AGENT, "install", *given(host, flags), check=False)
    assert done.returncode == 1
    assert "    ExecStart=/bin/sleep 600\n--force replaces it" in done.stderr
    host.run(AGENT, "install", *given(host, flags), "--force")
    assert host.run("cat", f"{unit}.orig").stdout == "[Service]\nExecStart=/bin/sleep 600\n"
    assert state(host, "loiter-agent") == ("active", "enabled")
    assert f"{unit}.orig is the unit that was there before" in host.run(AGENT, "uninstall", "--purge").stdout
    assert host.run("cat", f"{unit}.orig").stdout == "[Service]\nExecStart=/bin/sleep 600\n"
    host.run("rm", f"{unit}.orig")


def test_a_program_that_the_service_could_not_reach_is_not_installed(fleet: Fleet) -> None:
    host = fleet.host("web2")
    host.run("ln", "-s", AGENT, "/root/loiter-agent")
    done = host.run("/root/loiter-agent", "install", check=False)
    host.run("rm", "/root/loiter-agent")
    assert done.returncode == 1
    assert "/root/loiter-agent is under /root, which the service does not see" in done.stderr


def test_settings_of_before_stay_with_their_comments(fleet: Fleet, flags: dict[str, str]) -> None:
    host = fleet.host("web2")
    mine = '# mine\ninterval = "1s"  # often\n\n[labels]\ndc = "fra1"\n'
    host.write("/etc/loiter/agent.toml", mine)
    host.run(AGENT, "install", *given(host, flags), "--label", "role=web")
    assert host.run("cat", "/etc/loiter/agent.toml").stdout == (
        '# mine\ninterval = "1s"  # often\nserver = ["agg:7433"]\n\n[labels]\ndc = "fra1"\nrole = "web"\n'
    )
    host.write("/etc/loiter/agent.toml", mine + '[tls]\nca = "/etc/other.pem"\n')
    done = host.run(AGENT, "install", *given(host, flags), check=False)
    assert "sets tls.ca = '/etc/other.pem', which beats --ca: remove that line" in done.stderr
    host.run(AGENT, "uninstall", "--purge")


def test_uninstall_leaves_settings_and_state_and_a_purge_nothing_at_all(fleet: Fleet, flags: dict[str, str]) -> None:
    host = fleet.host("web3")
    before, users = paths(host), host.run("getent", "passwd").stdout
    host.run(AGENT, "install", *given(host, flags), "--with", "namespaces", "--with", "close-tracer")
    gone = host.run(AGENT, "uninstall").stdout
    assert "/etc/loiter/agent.toml, /var/lib/private/loiter-agent, /etc/credstore/loiter-agent.ca.pem" in gone
    assert state(host, "loiter-agent")[0] == "inactive"
    left = {line.split()[0] for line in paths(host) - before}
    assert {"/etc/loiter/agent.toml", "/etc/credstore/loiter-agent.token", "/var/lib/loiter-agent"} <= left
    assert not [path for path in left if path.startswith("/etc/systemd")]
    assert host.run(AGENT, "uninstall").stdout == "nothing to do\n"
    host.run(AGENT, "install", *given(host, flags))
    host.run(AGENT, "uninstall", "--purge")
    assert host.run(AGENT, "uninstall", "--purge").stdout == "nothing to do\n"
    assert (paths(host) ^ before, host.run("getent", "passwd").stdout) == (set(), users)
    assert host.run("sh", "-c", "ls /run/loiter-agent /run/private/loiter-agent", check=False).returncode != 0


def test_the_aggregator_too_is_removed_without_a_trace(fleet: Fleet, tmp_path: Path) -> None:
    """Once with what it makes and a store that was moved, once with certificates of one's own and a store elsewhere."""
    host = fleet.host("agg2")
    before, users = paths(host), host.run("getent", "passwd").stdout
    host.run(LOITER, "service", "install", "--name", "agg2")
    assert "stay, until: loiter service uninstall --purge" in host.run(LOITER, "service", "uninstall").stdout
    assert state(host, "loiter-aggregator")[0] == "inactive"
    kept = host.run("sha256sum", "/etc/loiter/ca/aggregator.key", "/etc/loiter/ingest.token").stdout
    host.run(LOITER, "service", "install")
    assert host.run("sha256sum", "/etc/loiter/ca/aggregator.key", "/etc/loiter/ingest.token").stdout == kept
    host.run("systemctl", "stop", "loiter-aggregator")
    host.run("sh", "-c", "mv /var/lib/loiter /srv/moved && ln -s /srv/moved /var/lib/loiter")
    host.run(LOITER, "service", "uninstall", "--purge")
    assert host.run(LOITER, "service", "uninstall", "--purge").stdout == "nothing to do\n"
    assert (paths(host) ^ before, host.run("getent", "passwd").stdout) == (set(), users)

    pki = Pki(tmp_path / "ca")
    for file in (pki.server.certificate, pki.server.key, pki.ca):
        host.write(f"/run/own/{file.name}", file.read_text(), 0o600)
    own = (
        "--certificate",
        "/run/own/aggregator.pem",
        "--key",
        "/run/own/aggregator.key",
        "--client-ca",
        "/run/own/ca.pem",
    )
    where = ("--listen", "0.0.0.0:7433", "--listen-readers", "0.0.0.0:7435", "--data-dir", "/srv/loiter")
    installed = host.run(LOITER, "service", "install", *own, *where).stdout
    assert "--certificate HOST.pem --key HOST.key" in installed
    assert host.run("stat", "-c", "%U %a", "/srv/loiter").stdout == "loiter 700\n"
    assert host.run("ls", "/srv/loiter/loiter.duckdb").returncode == 0
    assert "nothing to do\n" in host.run(LOITER, "service", "install").stdout
    host.run(LOITER, "service", "uninstall", "--purge")
    assert (paths(host) ^ before, host.run("getent", "passwd").stdout) == (set(), users)


def test_an_aggregator_that_strangers_could_use_is_not_installed(fleet: Fleet) -> None:
    host = fleet.host("agg2")
    before = paths(host)
    done = host.run(LOITER, "service", "install", "--listen", "0.0.0.0:7433", check=False)
    assert done.returncode == 1
    assert "nothing would be encrypted: give --name" in done.stderr
    done = host.run(LOITER, "service", "install", "--data-dir", "/srv", check=False)
    assert "/srv is there already, and not the folder of a store" in done.stderr
    assert paths(host) ^ before == set()
    printed = host.run(LOITER, "service", "install").stdout
    assert "loiter-agent install --server 127.0.0.1:7433" in printed
    assert "has acknowledged" in host.run(AGENT, "install", "--interval", "1s").stdout
    host.run(AGENT, "uninstall", "--purge")
    host.run(LOITER, "service", "uninstall", "--purge")
    assert paths(host) ^ before == set()


def test_a_start_that_takes_long_is_left_to_go_on(fleet: Fleet) -> None:
    """As where a large store is migrated."""
    host = fleet.host("agg2")
    drop_in = "/etc/systemd/system/loiter-aggregator.service.d/slow.conf"
    host.write(drop_in, "[Service]\nExecStartPre=/bin/sleep 600\n")
    done = host.run(LOITER, "service", "install", "--timeout", "1s", check=False)
    assert done.returncode == 1
    assert "It is still starting" in done.stderr
    assert state(host, "loiter-aggregator") == ("activating", "enabled")
    host.run(LOITER, "service", "uninstall", "--purge")


def test_without_root_nothing_is_installed(fleet: Fleet) -> None:
    host = fleet.host("web3")
    done = host.run("setpriv", "--reuid=65534", "--clear-groups", AGENT, "install", check=False)
    assert (done.returncode, done.stderr) == (1, "loiter-agent: only root can do this: sudo loiter-agent install\n")


def test_beside_a_package_it_configures_the_service_of_the_package(
    fleet: Fleet, flags: dict[str, str], debs: Debs
) -> None:
    host = fleet.host("web3")
    host.push(debs.agent, "/run/debs")
    host.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--install", f"/run/debs/{debs.agent.name}", timeout=180)
    try:
        installed = host.run("loiter-agent", "install", *given(host, flags), timeout=120).stdout
        assert "has acknowledged" in installed
        assert host.run("ls", "/etc/systemd/system/loiter-agent.service", check=False).returncode != 0
        assert "nothing to do\n" in host.run("loiter-agent", "install", *given(host, flags)).stdout
        seen = json.loads(host.run("loiter-agent", "check", "-o", "json", check=False).stdout)
        assert (seen["ok"], seen["rights_of"]) == (True, "loiter-agent.service")
        refused = host.run("loiter-agent", "uninstall", check=False)
        assert refused.returncode == 1
        assert "apt-get purge loiter-agent" in refused.stderr
    finally:
        host.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--purge", "loiter-agent", timeout=120)
