"""The playbook, run by Ansible over ssh against hosts of the lab: from nothing to a fleet, an upgrade, and back.

The tests of this file tell one story, in their order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from support.programs import BIN
from systemd.control import ANSIBLE, ControlNode, Recap
from systemd.debs import LATER, Debs, renumbered
from systemd.lab import Fleet
from systemd.lab.host import Host
from systemd.lab.tools import here

AGENTS: Final = ("web1", "web2", "web3")
AGGREGATOR: Final = "agg"
PLAYBOOK: Final = ANSIBLE / "fleet.yml"
# Of agents; Ansible asks for them before it knows a host. All at a time where nothing is proved by batches.
BATCHES: Final = ("--extra-vars", '{"loiter_serial": [1, 2]}')
AT_ONCE: Final = ("--extra-vars", '{"loiter_serial": "100%"}')
# What both packages, the playbook and the programs keep on a host.
KEPT: Final = (
    *("/etc/loiter", "/etc/systemd/system/loiter-agent.service.d", "/var/lib/loiter", "/var/lib/loiter-agent"),
    *("/var/lib/private/loiter-agent", "/run/loiter-agent", "/run/loiter-aggregator", "/usr/lib/loiter-agent"),
    *("/usr/lib/loiter-aggregator", "/usr/bin/loiter", "/usr/bin/loiter-agent"),
)

Play = Callable[..., Recap]


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> Mapping[str, Host]:
    """Three hosts and one for the aggregator, on which nothing is installed."""
    return {host.name: host for host in fleet.hosts(*AGENTS, AGGREGATOR)}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the playbook keeps the authority and the tokens, on the control host."""
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def play(
    fleet: Fleet, hosts: Mapping[str, Host], debs: Debs, secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Play:
    """Runs the playbook for the fleet. Keyword arguments are variables, the others are flags."""
    # A short path: that of ssh's control socket must fit in 108 bytes.
    control = ControlNode(fleet, tmp_path_factory.mktemp("c"))
    control.admit_to(hosts.values())
    groups = {"loiter_aggregators": [hosts[AGGREGATOR]], "loiter_agents": [hosts[name] for name in AGENTS]}
    variables = {
        "loiter_agent_package": str(debs.agent),
        "loiter_agent_server": [f"{AGGREGATOR}:7433"],
        "loiter_agent_labels": {"role": "web", "owner": 'the "web" team'},
        "loiter_agent_settings": {"interval": "2s", "spool": {"max_bytes": "32MB"}},
        "loiter_agent_authority": str(secrets / "ca"),
        "loiter_agent_authority_command": str(BIN / "loiter"),
        "loiter_aggregator_package": str(debs.aggregator),
        "loiter_aggregator_settings": {"store": {"retention": "2d"}},
        "loiter_aggregator_names": [AGGREGATOR, hosts[AGGREGATOR].address],
        "loiter_aggregator_authority": str(secrets / "ca"),
        "loiter_aggregator_authority_command": str(BIN / "loiter"),
        "loiter_aggregator_tokens": [{"name": "alice", "right": "read", "file": str(secrets / "alice.token")}],
    }

    def run(*flags: str, **changes: Any) -> Recap:
        return control.play(PLAYBOOK, groups, variables | changes, *AT_ONCE, *flags)

    return run


@pytest.fixture(scope="module")
def ask(fleet: Fleet, hosts: Mapping[str, Host], secrets: Path) -> Callable[..., Any]:
    """Asks the aggregator from the control host, by the token that the playbook made."""

    def run(*question: str) -> Any:
        done = fleet.run(
            "env",
            f"LOITER_TOKEN_FILE={secrets / 'alice.token'}",
            BIN / "loiter",
            *question,
            "-o",
            "json",
            *("--server", f"{hosts[AGGREGATOR].address}:7435", "--ca", secrets / "ca" / "ca.pem"),
        )
        return json.loads(done.stdout)

    return run


def version_of(package: Path) -> str:
    """The version that a package has."""
    return here("dpkg-deb", "--field", package, "Version").stdout.strip()


def installed(host: Host, name: str) -> str:
    """The version of a package on a host; nothing where it is not installed."""
    return host.run("dpkg-query", "--show", "--showformat=${Version}", name, check=False).stdout


def test_ansible_lint_finds_nothing(tmp_path: Path) -> None:
    """By its profile `production`; syntax is checked with it."""
    path = f"PATH={BIN}:{os.environ['PATH']}"
    words = ("ansible-lint", "--offline", "--strict", "--profile", "production", "--project-dir", ANSIBLE, ANSIBLE)
    done = here("env", path, f"ANSIBLE_HOME={tmp_path}", *words, check=False, seconds=200)
    assert done.returncode == 0, done.stdout


def test_a_dry_run_changes_nothing_on_hosts_that_have_nothing(play: Play, hosts: Mapping[str, Host]) -> None:
    run = play("--check", "--diff", "--limit", f"{AGGREGATOR},web1")
    assert run.status == 0, run.output
    assert run.changed > 0
    for name in (AGGREGATOR, "web1"):
        assert hosts[name].run("ls", "/etc/loiter", "/etc/credstore", check=False).stdout == ""
        assert hosts[name].run("sh", "-c", "dpkg-query --list | grep loiter", check=False).stdout == ""


def test_from_nothing_to_a_fleet(play: Play, hosts: Mapping[str, Host], ask: Callable[..., Any]) -> None:
    """Every host has an agent that has reported, under the inventory's name and with its labels."""
    run = play()
    assert run.status == 0, run.output
    rows = ask("top", "hosts")
    assert sorted(row["host"] for row in rows) == list(AGENTS)
    assert not any(row["silent"] for row in rows)
    assert ask("host", "web2")["labels"] == {"role": "web", "owner": 'the "web" team'}
    assert ask("host", "web2")["interval_seconds"] == 2
    for name in AGENTS:
        assert hosts[name].run("stat", "-c", "%a %U", "/etc/credstore/loiter-agent.key.pem").stdout == "600 root\n"


def test_a_second_run_changes_nothing_and_prints_no_secret(play: Play, secrets: Path) -> None:
    """Not with every detail, and not as a difference either."""
    again = play("-vvv", "--diff")
    assert again.status == 0, again.output
    assert again.changed == 0, again.output
    key = (secrets / "ca" / "agents" / "web1.key").read_text()
    token = (secrets / "alice.token").read_text().strip()
    assert not any(secret in again.output for secret in (token, *key.splitlines()))


def test_a_dry_run_of_what_is_done_finds_nothing_to_do(play: Play) -> None:
    run = play("--check", "--diff", "--limit", f"{AGGREGATOR},web1")
    assert run.status == 0, run.output
    assert run.changed == 0, run.output


def test_a_roll_out_that_fails_stops_at_the_first_host(play: Play, hosts: Mapping[str, Host]) -> None:
    """An agent that can not report: the hosts after it keep their settings."""
    before = hosts["web2"].run("cat", "/etc/loiter/agent.toml").stdout
    wrong = {"loiter_agent_server": [f"{AGGREGATOR}:7434"], "loiter_agent_wait_seconds": 6}
    run = play("--limit", "loiter_agents", *BATCHES, **wrong)
    assert run.status != 0
    assert "web1: no report was acknowledged within 6 s by agg:7434" in run.output
    assert run.hosts["web1"]["failed"] == 1
    assert "web2" not in run.hosts
    assert hosts["web2"].run("cat", "/etc/loiter/agent.toml").stdout == before


def test_what_a_run_that_failed_has_changed_is_in_force(play: Play, hosts: Mapping[str, Host]) -> None:
    """At once where the play could go on to its handlers, and else after the next run, which itself changes nothing."""
    web3, wrong = hosts["web3"], {"loiter_agent_package": "/nowhere/loiter-agent_9.9-1_amd64.deb"}
    processes = [main_process(web3)]
    run = play("--limit", "web3", loiter_agent_labels={"role": "db"}, **wrong)
    assert run.status != 0
    processes.append(main_process(web3))
    web3.run("touch", "/etc/credstore/loiter-agent.certificate.pem")
    run = play("--limit", "web3", loiter_agent_labels={"role": "db"})
    assert run.status == 0, run.output
    processes.append(main_process(web3))
    assert len(set(processes)) == len(processes)


def test_a_token_is_kept_although_a_later_one_fails(play: Play, secrets: Path) -> None:
    tokens = [
        {"name": name, "right": "read", "file": str(file)}
        for name, file in (("bob", secrets / "bob.token"), ("carol", secrets / "nowhere" / "carol.token"))
    ]
    run = play("--limit", AGGREGATOR, loiter_aggregator_tokens=tokens)
    assert run.status != 0
    assert "nowhere/carol.token: there is no such folder on the control host" in run.output
    assert (secrets / "bob.token").read_text().startswith("loiter_")


def test_a_lost_token_is_named_and_replaced_when_asked_and_a_new_name_gets_a_certificate(
    play: Play, hosts: Mapping[str, Host], secrets: Path, ask: Callable[..., Any]
) -> None:
    (secrets / "alice.token").unlink()
    run = play("--limit", AGGREGATOR)
    assert run.status != 0
    assert "The token of alice is in force" in run.output
    aggregator = hosts[AGGREGATOR]
    before = main_process(aggregator, "loiter-aggregator")
    names = [AGGREGATOR, aggregator.address, "other.example"]
    replace = ("-e", "loiter_aggregator_tokens_replace=true")
    run = play("--limit", AGGREGATOR, *replace, loiter_aggregator_names=names)
    assert run.status == 0, run.output
    assert ask("fleet")["aggregator"], "the new token is taken"
    words = ("openssl", "x509", "-noout", "-checkhost", "other.example")
    certificate = "/etc/credstore/loiter-aggregator.certificate.pem"
    assert "does match" in aggregator.run(*words, "-in", certificate).stdout
    assert main_process(aggregator, "loiter-aggregator") != before


def test_an_upgrade_goes_host_by_host_and_loses_no_sample(
    play: Play, hosts: Mapping[str, Host], debs: Debs, ask: Callable[..., Any], tmp_path: Path
) -> None:
    """The host that the failed roll-out left with wrong settings is set right, and delivers what waited meanwhile."""
    newer = renumbered(debs.agent, LATER, tmp_path)
    processes = {name: main_process(hosts[name]) for name in AGENTS}
    run = play("--limit", "loiter_agents", *BATCHES, loiter_agent_package=str(newer))
    assert run.status == 0, run.output
    for name in AGENTS:
        assert installed(hosts[name], "loiter-agent") == f"{LATER}-1"
        assert main_process(hosts[name]) != processes[name]
        assert ask("host", name)["agent_version"] == LATER
    fleet = ask("fleet")
    assert fleet["losing_hosts"] == []
    assert fleet["coverage"]["hosts_reporting"] == len(AGENTS)


def test_an_older_package_and_a_new_certificate(play: Play, hosts: Mapping[str, Host], debs: Debs) -> None:
    """The version that is named is installed, also where a newer one is; what ends soon is made anew, and used."""
    certificate = hosts["web3"].run("cat", "/etc/credstore/loiter-agent.certificate.pem").stdout
    run = play("--limit", "web3", loiter_agent_authority_renew_days=366)
    assert run.status == 0, run.output
    assert installed(hosts["web3"], "loiter-agent") == version_of(debs.agent)
    assert hosts["web3"].run("cat", "/etc/credstore/loiter-agent.certificate.pem").stdout != certificate


def test_absent_keeps_what_purge_removes(play: Play, hosts: Mapping[str, Host]) -> None:
    gone = {"loiter_agent_state": "absent", "loiter_aggregator_state": "absent"}
    run = play("--limit", "web1", **gone)
    assert run.status == 0, run.output
    assert not runs(hosts["web1"])
    assert hosts["web1"].run("ls", "/etc/loiter/agent.toml", "/var/lib/private/loiter-agent").returncode == 0
    purge = ("-e", "loiter_agent_purge=true", "-e", "loiter_aggregator_purge=true")
    run = play(*purge, **gone)
    assert run.status == 0, run.output
    for host in hosts.values():
        left = host.run("sh", "-c", 'ls -d "$@" /etc/credstore/loiter-* 2>/dev/null', "ls", *KEPT, check=False).stdout
        assert left == "", f"{host.name}: {left}"
        assert host.run("getent", "passwd", "loiter", check=False).stdout == ""
        assert host.run("systemctl", "cat", "loiter-agent", check=False).returncode != 0
    again = play("--check", *purge, **gone)
    assert (again.status, again.changed) == (0, 0), again.output


def main_process(host: Host, unit: str = "loiter-agent") -> str:
    """The pid of a service."""
    return host.run("systemctl", "show", "--value", "--property=MainPID", unit).stdout.strip()


def runs(host: Host) -> bool:
    """Whether the agent runs."""
    return host.run("systemctl", "is-active", "--quiet", "loiter-agent", check=False).returncode == 0
