"""`loiter-agent check`: what each check makes of what it finds, and what it finds here."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loiter.service_install.systemd import ServiceState
from loiter.transport import Security
from loiter_agent.checks.capabilities import NEEDED, check_capabilities, effective
from loiter_agent.checks.clock import check_clock, is_synchronized
from loiter_agent.checks.disk import check_disk
from loiter_agent.checks.finding import Finding, State
from loiter_agent.checks.report import check_report
from loiter_agent.checks.rights import seen_by_service
from loiter_agent.checks.seen import as_document, from_document, seen
from loiter_agent.checks.servers import check_certificate, check_servers
from loiter_agent.checks.show import as_json, as_table, works
from loiter_agent.checks.unit import check_unit, rights_of
from loiter_agent.probe import Probe, Verdict, probe
from support.programs import BIN, run
from support.statuses import STATUS

RUNNING = ServiceState(loaded=True, enabled=True, active=True, main_pid=42, summary="active (running)")
UNIT = {
    "AmbientCapabilities": "cap_dac_read_search cap_sys_ptrace",
    "DynamicUser": "yes",
    "MemoryMax": str(256 << 20),
    "CPUQuotaPerSecUSec": "250ms",
}
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def states(findings: list[Finding]) -> dict[str, str]:
    """How each stands."""
    return {one.check: one.state.value for one in findings}


def test_capabilities_are_read_from_the_mask_of_the_kernel(tmp_path: Path) -> None:
    assert effective("CapPrm:\tffffffffffffffff\nCapEff:\t0000000000080004\n") == set(NEEDED)
    status = tmp_path / "status"
    status.write_text("CapEff:\t0000000000000004\n")
    finding = check_capabilities(status)
    assert finding.state is State.LIMITED
    assert "without CAP_SYS_PTRACE, the descriptors" in finding.finding
    status.write_text("CapEff:\t000000c000280004\n")
    assert check_capabilities(status).finding == (
        "CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF"
    )


@ROOT
def test_this_machine_is_looked_at_for_real() -> None:
    findings = seen()
    assert from_document(json.loads(json.dumps(as_document(findings)))) == findings
    here = states(findings)
    assert here["capabilities"] == here["sock_diag"] == here["CLOSE_WAIT details"] == "ok"
    assert here.keys() >= {"cgroups", "descriptor count", "processes", "namespaces", "close tracer"}


@ROOT
def test_with_the_rights_of_the_service_less_is_seen_than_by_root() -> None:
    """A process of nobody's, with the capabilities that are named and no others."""
    service = seen_by_service(["cap_sys_ptrace", "cap_dac_read_search"])
    less = seen_by_service(["cap_dac_read_search"])
    assert service is not None
    assert less is not None
    assert next(one for one in service if one.check == "capabilities").finding == ", ".join(NEEDED)
    assert states(service)["close tracer"] == "limited"
    assert states(less)["capabilities"] == states(less)["processes"] == "limited"


def test_a_clock_that_is_off_or_kept_by_nothing_is_limited() -> None:
    off = Probe("a:1", Verdict.ADMITTED, "", skew_seconds=-42.0)
    near = replace(off, skew_seconds=0.25)
    assert check_clock(True, [near]) == Finding("clock", State.OK, "synchronized; 0.2 s off a:1")
    assert check_clock(True, [off]).finding == "42s behind a:1, which sets the times of samples right"
    assert check_clock(False, []).state is State.LIMITED
    assert check_clock(None, []).state is State.OK
    assert is_synchronized() in (True, False)


def test_a_state_folder_needs_to_be_writable_and_roomy(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "a/b", 1_000, made_by_systemd=False).state is State.OK
    assert check_disk(tmp_path, 1 << 60, made_by_systemd=False).state is State.LIMITED
    assert check_disk(Path("/proc/1/nothing"), 1_000, made_by_systemd=False).state is State.MISSING


def test_a_unit_that_does_not_run_or_hides_the_host_is_said() -> None:
    assert check_unit(RUNNING, UNIT).finding == (
        "active (running), starts at boot; may take 256 MiB and 25% of a processor"
    )
    assert check_unit(ServiceState(), {}).state is State.LIMITED
    assert check_unit(replace(RUNNING, active=False, summary="failed (failed)"), UNIT).state is State.MISSING
    assert check_unit(replace(RUNNING, enabled=False), UNIT).state is State.LIMITED
    hidden = check_unit(RUNNING, {**UNIT, "PrivateUsers": "yes"})
    assert (hidden.state, hidden.remedy) == (State.MISSING, "a drop-in with PrivateUsers=")
    assert rights_of(UNIT) == ["cap_dac_read_search", "cap_sys_ptrace"]
    assert rights_of({"User": "root"}) is None


def test_one_aggregator_that_lets_the_agent_in_is_enough() -> None:
    admitted = Probe("a:1", Verdict.ADMITTED, "lets this agent report")
    away = Probe("b:1", Verdict.AWAY, "does not answer")
    refused = Probe("c:1", Verdict.REFUSED, "the token is unknown")
    assert [one.state for one in check_servers([admitted, away, refused])] == [State.OK, State.LIMITED, State.LIMITED]
    assert [one.state for one in check_servers([away, refused])] == [State.MISSING, State.MISSING]
    unknown = probe("no-such-host.invalid:1", Security())
    assert unknown.verdict is Verdict.AWAY
    assert "getent hosts no-such-host.invalid" in (check_servers([unknown])[0].remedy or "")


@pytest.mark.parametrize(("days", "state"), [(31, State.OK), (29, State.LIMITED), (-1, State.MISSING)])
def test_a_certificate_is_said_before_it_expires(days: int, state: State) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    period = now - timedelta(days=300), now + timedelta(days=days, seconds=1)
    assert check_certificate("certificate", Path("c.pem"), period, now).state is state
    assert check_certificate("certificate", Path("c.pem"), None, now).state is State.MISSING


def test_reports_that_are_not_acknowledged_are_said_with_the_reason() -> None:
    assert check_report(STATUS, 42, 1_005.0).state is State.OK
    away = replace(STATUS, connected=False, error="connection refused", waiting_reports=1_204)
    assert check_report(away, 42, 1_005.0).finding == (
        "not acknowledged: connection refused; the last: 1970-01-01T00:16:40.000Z; 1,204 waiting, 0 lost"
    )
    assert check_report(replace(STATUS, left_out="no_detail"), 42, 1_005.0).state is State.LIMITED
    assert check_report(STATUS, 43, 1_005.0).state is check_report(None, 42, 1_005.0).state is State.MISSING


def test_findings_are_shown_in_80_columns_with_what_to_do() -> None:
    findings = [
        Finding("clock", State.OK, "synchronized", "never shown"),
        Finding("namespaces", State.LIMITED, "0 of 3 others can be entered " * 3, "loiter-agent install " * 5),
        Finding("server", State.MISSING, "a:1: \x1b[31mrefused", None),
    ]
    table = as_table("web-1 with the rights of root", findings)
    assert all(len(line) <= 80 for line in table.splitlines())
    assert table.splitlines()[:3] == [
        "web-1 with the rights of root",
        "",
        "clock       ok       synchronized",
    ]
    assert "                     -> loiter-agent install" in table
    assert "\x1b" not in table
    assert table.endswith("\n1 of what is needed does not work; 1 limited")
    assert not works(findings)
    assert works(findings[:2])
    document = json.loads(as_json("root", findings))
    assert document["ok"] is False
    assert document["checks"][2] == {
        "check": "server",
        "state": "missing",
        "finding": "a:1: \x1b[31mrefused",
        "remedy": None,
    }


@ROOT
def test_the_command_says_what_is_missing_and_fails(tmp_path: Path) -> None:
    """Nobody listens at the port of discard."""
    config = tmp_path / "agent.toml"
    config.write_text(f'state_dir = "{tmp_path}"\nserver = ["127.0.0.1:9"]\n')
    done = run([BIN / "loiter-agent", "check", "--config", config, "-o", "json"])
    assert done.returncode == 1, done.stderr
    server = next(row for row in json.loads(done.stdout)["checks"] if row["check"] == "server")
    assert (server["state"], server["finding"]) == ("missing", "127.0.0.1:9: 127.0.0.1 port 9: Connection refused")
    assert run([BIN / "loiter-agent", "check", "--config", tmp_path / "none"]).returncode == 2


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs this machine")
def test_without_systemd_nothing_is_installed_and_it_is_said_what_to_do_instead() -> None:
    for verb in ("install", "uninstall"):
        done = run([BIN / "loiter-agent", verb])
        assert done.returncode == 1
        assert done.stderr.startswith("loiter-agent: systemd is not what runs this machine, so no service can be")
        assert "Traceback" not in done.stderr
