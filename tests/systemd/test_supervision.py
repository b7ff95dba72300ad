"""Under systemd: what the journal holds of both programs, what systemctl says of them, and what ends one that hangs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from support.programs import ROOT
from systemd.debs import Debs
from systemd.lab import Fleet, Host
from systemd.services import AGENT, AGGREGATOR, Aggregator, install_both, pid, show, wait_for_reports

# The shortest that the unit may be given, for the test alone: the agent then asks for four of its intervals.
WATCHDOG: Final = "[Service]\nWatchdogSec=2\nRestartSec=1\n"


@pytest.fixture(scope="module")
def host(fleet: Fleet, debs: Debs) -> Host:
    """A host with both packages, which reports to itself every second, and has its agent watched closely."""
    host = fleet.host("watched")
    host.write(f"/etc/systemd/system/{AGENT}.d/watchdog.conf", WATCHDOG)
    host.push(ROOT / "tests" / "support" / "hang_tick.py", "/opt")
    return install_both(host, debs).host


def entries(host: Host, unit: str, *match: str) -> list[dict[str, Any]]:
    """What the journal holds of a unit."""
    host.run("journalctl", "--sync")
    words = ("journalctl", "--no-pager", "--output=json", f"_SYSTEMD_UNIT={unit}", *match)
    return [json.loads(line) for line in host.run(*words).stdout.splitlines()]


def test_the_journal_has_severities_and_facts_to_filter_by(host: Host) -> None:
    """Of each line; and no line came by way of standard error, where all are alike."""
    (told,) = entries(host, AGENT, "LOITER_SERVER=127.0.0.1:7433", "PRIORITY=6")[-1:]
    assert told["MESSAGE"].startswith("reporting to 127.0.0.1:7433")
    assert told["SYSLOG_IDENTIFIER"] == "loiter-agent"
    assert told["LOITER_LOGGER"] == "loiter_agent.uplink"
    assert int(told["LOITER_DROPPED"]) == 0
    (listening,) = entries(host, AGGREGATOR, "LOITER_ADDRESS=127.0.0.1:7433")[-1:]
    assert listening["MESSAGE"] == "listening on 127.0.0.1:7433, in plaintext"
    assert listening["SYSLOG_IDENTIFIER"] == "loiter"
    for unit in (AGENT, AGGREGATOR):
        assert {entry["_TRANSPORT"] for entry in entries(host, unit)} == {"journal"}


def test_systemctl_says_how_they_are(host: Host) -> None:
    assert show(host, "Type") == show(host, "Type", AGGREGATOR) == "notify"
    assert re.fullmatch(
        r"reporting to 127\.0\.0\.1:7433, [0-9,]+ reports acknowledged, [0-9] waiting", show(host, "StatusText")
    )
    host.wait(lambda: re.match("1 agents connected, ", show(host, "StatusText", AGGREGATOR)), 20)


def test_a_reload_reads_the_settings_again(host: Host) -> None:
    """And is over when `systemctl reload` is. Lines are JSON from then on."""
    file = "/etc/loiter/agent.toml"
    before = host.run("cat", file).stdout
    host.write(file, 'log_format = "json"\n' + before)
    host.run("systemctl", "reload", AGENT)
    said = [entry["MESSAGE"] for entry in entries(host, AGENT, "_TRANSPORT=stdout")]
    host.write(file, before)
    host.run("systemctl", "reload", AGENT)
    assert json.loads(said[-1])["message"] == "settings reloaded"
    assert entries(host, AGENT)[-1]["MESSAGE"] == "settings reloaded"
    assert show(host, "NRestarts") == "0"


@contextmanager
def hung_tick(host: Host) -> Iterator[None]:
    """Hangs the next tick of the agent, until it ends."""
    unit = f"hanging-{pid(host)}"
    script = f"sleep infinity | exec python3 /opt/hang_tick.py {pid(host)}"
    host.run("systemd-run", "--quiet", f"--unit={unit}", "sh", "-c", script)
    try:
        host.wait(lambda: host.run("journalctl", "--quiet", f"--unit={unit}", "--grep=^hung ", check=False).stdout, 20)
        yield
    finally:
        host.run("systemctl", "stop", unit, check=False)


def test_a_tick_that_hangs_is_ended_by_the_watchdog_and_the_agent_comes_back(host: Host) -> None:
    """It could go on doing nothing for ever. The journal says where it hung."""
    former = pid(host)
    with hung_tick(host):
        host.wait(lambda: show(host, "NRestarts") == "1", 30)
        said = "\n".join(entry["MESSAGE"] for entry in entries(host, AGENT, f"_PID={former}"))
    assert "Fatal Python error: Aborted" in said
    assert re.search(r'File ".*sampler.py", line \d+ in sample', said)
    wait_for_reports(host, former)


def test_an_agent_that_was_stopped_by_a_signal_is_ended_by_the_watchdog(host: Host) -> None:
    former = pid(host)
    host.run("kill", "-STOP", str(former))
    wait_for_reports(host, former)
    assert "Watchdog timeout" in host.run("journalctl", "--no-pager", "--output=cat", "--unit", AGENT).stdout


def test_a_tick_that_hangs_does_not_hold_up_a_stop(host: Host) -> None:
    """It is given up after some seconds, and the end is no kill by systemd."""
    # Without the watchdog, which would be first.
    host.write(f"/etc/systemd/system/{AGENT}.d/watchdog.conf", "[Service]\nWatchdogSec=0\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", AGENT)
    wait_for_reports(host)
    with hung_tick(host):
        host.run("systemctl", "stop", AGENT)
        assert (show(host, "Result"), show(host, "ExecMainStatus")) == ("exit-code", "1")
        messages = [entry["MESSAGE"] for entry in entries(host, AGENT)]
    assert "a tick hangs, and is given up; where it does follows" in messages
    host.run("systemctl", "start", AGENT)
    wait_for_reports(host)


def test_an_aggregator_that_hangs_is_ended_by_the_watchdog(host: Host) -> None:
    """And what agents sent meanwhile is there afterwards."""
    host.write(f"/etc/systemd/system/{AGGREGATOR}.d/watchdog.conf", WATCHDOG)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", AGGREGATOR)
    wait_for_reports(host)
    host.run("kill", "-STOP", str(pid(host, AGGREGATOR)))
    host.wait(lambda: show(host, "NRestarts", AGGREGATOR) == "1", 30)
    wait_for_reports(host)
    assert Aggregator(host).ask("fleet")["losing_hosts"] == []
