"""The units, installed on a host: how little they allow, and that it is enough for all that the programs do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from support.programs import LEAKLAB, ROOT
from systemd.debs import Debs
from systemd.lab import Fleet, Host
from systemd.services import (
    AGENT,
    AGGREGATOR,
    EVERY_SECOND,
    Aggregator,
    install_both,
    pid,
    show,
    status,
    wait_for_reports,
)

# What systemd-analyze(1) calls the exposure, from 0 to 10: the less, the better.
HIGHEST_EXPOSURE: Final = 2.0
DROP_INS: Final = ROOT / "deploy" / "systemd" / f"{AGENT}.d"
# include/linux/proc_ns.h: PROC_PID_INIT_INO
INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
# include/uapi/linux/capability.h
DAC_READ_SEARCH, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF = (1 << number for number in (2, 19, 21, 38, 39))


@pytest.fixture(scope="module")
def one(fleet: Fleet, debs: Debs) -> Host:
    """A host with both packages as they are installed, which reports to itself. Its agent ticks every second."""
    host = install_both(fleet.host("one"), debs).host
    host.push(LEAKLAB, "/opt")
    return host


def ask(host: Host, *words: str) -> Any:
    """What the aggregator of the host answers."""
    return Aggregator(host).ask(*words)


def exposure(host: Host, unit: str) -> float:
    """How exposed systemd finds a unit."""
    report = host.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert found is not None, report
    return float(found[1])


def capabilities(host: Host, unit: str) -> tuple[int, int]:
    """Those that the main process of a unit has in effect, and those that it could ever get."""
    lines = host.run("cat", f"/proc/{pid(host, unit)}/status").stdout.splitlines()
    sets = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
    return int(sets["CapEff"], 16), int(sets["CapBnd"], 16)


@contextmanager
def drop_ins(host: Host, **texts: str) -> Iterator[None]:
    """Runs the agent with drop-ins for as long as the block lasts."""
    folder = f"/etc/systemd/system/{AGENT}.d"
    for name, text in texts.items():
        host.write(f"{folder}/{name}.conf", text)
    restart(host)
    try:
        yield
    finally:
        host.run("rm", "-r", folder)
        restart(host)


def restart(host: Host) -> None:
    """Has systemd read units anew, and starts the agent anew."""
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", AGENT)


def shipped(name: str) -> str:
    """A drop-in that comes with the agent."""
    return (DROP_INS / f"{name}.conf").read_text()


@contextmanager
def service(host: Host, name: str, command: str, *properties: str) -> Iterator[None]:
    """A service of another user, which runs a program of the leak lab that ends with its standard input."""
    run = ["systemd-run", f"--unit={name}", "--property=User=nobody", *(f"--property={one}" for one in properties)]
    host.run(*run, "sh", "-c", f"sleep infinity | exec python3 /opt/leaklab/{command}")
    try:
        yield
    finally:
        host.run("systemctl", "stop", name)


def process(host: Host, app: str) -> dict[str, Any] | None:
    """The process of a service that holds the most sockets in CLOSE_WAIT, as the aggregator knows it."""
    rows = [row for row in ask(host, "host", "one")["processes"] if row["app"] == app and row["close_wait"]]
    return max(rows, key=lambda row: int(row["close_wait"]), default=None)


def test_systemd_knows_every_setting_of_the_units(one: Host) -> None:
    """But those of systemd 254, which earlier ones ignore."""
    for unit in (AGENT, AGGREGATOR):
        done = one.run("systemd-analyze", "verify", unit)
        known = [line for line in done.stderr.splitlines() if not re.search("'Restart(Steps|MaxDelaySec)'", line)]
        assert known == []


@pytest.mark.parametrize("unit", [AGENT, AGGREGATOR])
def test_a_unit_is_exposed_little(one: Host, unit: str) -> None:
    found = exposure(one, unit)
    print(f"exposure of {unit}: {found}")
    assert found <= HIGHEST_EXPOSURE


def test_the_agent_has_two_capabilities_and_the_aggregator_none(one: Host) -> None:
    assert capabilities(one, AGENT) == (SYS_PTRACE | DAC_READ_SEARCH,) * 2
    assert capabilities(one, AGGREGATOR) == (0, 0)


def test_each_runs_as_a_user_of_its_own(one: Host) -> None:
    """That of the agent is there only while it runs; its state outlives it."""
    users = {unit: show(one, "UID", unit) for unit in (AGENT, AGGREGATOR)}
    assert "0" not in users.values()
    assert one.run("id", "-u", "loiter").stdout.strip() == users[AGGREGATOR]
    assert one.run("grep", "-c", "loiter-agent", "/etc/passwd", check=False).stdout == "0\n"
    assert one.run("ls", "/var/lib/private/loiter-agent").stdout != ""


def test_a_leak_of_another_user_is_seen_whole(one: Host) -> None:
    """Its holder, his user, descriptors and the cause are known: nothing is unreadable within the sandbox."""
    with service(one, "order-api", "leak.py --per-second 10"):
        one.wait(lambda: (process(one, "order-api.service") or {}).get("cause") == "leak", 30, "the leak is found")
        found = process(one, "order-api.service")
        detail = ask(one, "host", "one")
    assert found is not None
    assert found["user"] == "nobody"
    assert found["close_wait_age_seconds"]["max"] > 2
    assert found["fd_open"] >= found["close_wait"]
    assert detail["sampler"] == "sock_diag"
    coverage = detail["coverage"]
    assert (coverage["processes_unreadable"], coverage["sockets_unattributed"]) == (0, 0)
    assert (coverage["namespaces_unread"], detail["collectors_failed"]) == (0, [])


def test_a_reload_has_the_agent_read_its_settings(one: Host) -> None:
    """Within the sandbox, and without a new process."""
    before = status(one)
    one.write("/etc/loiter/agent.toml", 'interval = "2s"\ncpu_budget = "100%"\n')
    one.run("systemctl", "reload", AGENT)
    one.wait(lambda: status(one)["interval_seconds"] == 2, 20)
    one.write("/etc/loiter/agent.toml", EVERY_SECOND)
    one.run("systemctl", "reload", AGENT)
    one.wait(lambda: status(one)["interval_seconds"] == 1, 20)
    assert status(one)["pid"] == before["pid"]


def test_namespaces_are_entered_with_the_drop_in_alone(one: Host) -> None:
    """Without, the sockets of other network namespaces are read in the way that tells less."""
    one.run("ip", "netns", "add", "pod")
    one.run("ip", "-n", "pod", "link", "set", "lo", "up")

    def samplers() -> set[tuple[str, bool, str]]:
        return {(row["name"], row["read"], row["sampler"]) for row in ask(one, "host", "one")["namespaces"]}

    with service(one, "inpod", "leak.py --per-second 10", "NetworkNamespacePath=/run/netns/pod"):
        one.wait(lambda: ("pod", True, "procfs") in samplers(), 90, "the namespace is found")
        with drop_ins(one, namespaces=shipped("namespaces")):
            print(f"exposure with namespaces.conf: {exposure(one, AGENT)}")
            one.wait(lambda: ("pod", True, "sock_diag") in samplers(), 30, "the namespace is entered")
            one.wait(lambda: (process(one, "inpod.service") or {}).get("cause") == "leak", 30, "its leak is found")
            assert capabilities(one, AGENT)[0] == SYS_PTRACE | DAC_READ_SEARCH | SYS_ADMIN
    assert capabilities(one, AGENT)[1] == SYS_PTRACE | DAC_READ_SEARCH
    one.run("ip", "netns", "delete", "pod")


def test_the_close_tracer_is_loaded_with_its_drop_in_alone(one: Host) -> None:
    """The kernel takes the program, attaches it and records a close. All that is missing is the host's pid namespace.

    A container has its own, so the tracer's test of itself says no at its very end; what it says proves that it came
    so far. See also the next test.
    """
    debug = "[Service]\nEnvironment=LOITER_LOG_LEVEL=debug\n"

    def said() -> str:
        lines = one.run("journalctl", "--no-pager", "--output=cat", f"_PID={pid(one)}").stdout.splitlines()
        return next((line for line in lines if "closes are not traced" in line), "")

    with drop_ins(one, debug=debug):
        one.wait(lambda: "Operation not permitted: CAP_BPF and CAP_PERFMON are needed" in said(), 20, said)
    tracer = shipped("close-tracer")
    with drop_ins(one, debug=debug, tracer=tracer):
        print(f"exposure with close-tracer.conf: {exposure(one, AGENT)}")
        one.wait(lambda: "the host's pid and time namespaces are needed" in said(), 20, said)
        assert capabilities(one, AGENT)[0] == SYS_PTRACE | DAC_READ_SEARCH | BPF | PERFMON


@pytest.mark.usefixtures("lab")
def test_the_capabilities_of_the_close_tracer_suffice_on_the_machine_itself() -> None:
    """Here, in the pid namespace of the kernel, its test of itself succeeds with no more than the unit would have.

    Where this machine is a container, it comes as far as on a host of the lab.
    """
    names = "+sys_ptrace,+dac_read_search,+bpf,+perfmon"
    limits = [f"--bounding-set=-all,{names}", f"--inh-caps=-all,{names}", f"--ambient-caps=-all,{names}"]
    user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    script = "from loiter_agent.close_tracer import CloseTracer; CloseTracer().close(); print('traced')"
    done = subprocess.run(
        ["setpriv", *user, *limits, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    if Path("/proc/self/ns/pid").stat().st_ino == INITIAL_PID_NAMESPACE:
        assert done.stdout == "traced\n", done.stderr
    else:
        assert "the host's pid and time namespaces are needed" in done.stderr


def test_an_agent_that_may_talk_to_certain_addresses_talks_to_no_other(one: Host) -> None:
    """The drop-in as it is allows the loopback address, and without that nothing gets through."""
    addresses = shipped("addresses")
    with drop_ins(one, addresses=addresses):
        print(f"exposure with addresses.conf: {exposure(one, AGENT)}")
        wait_for_reports(one, count=2)
    with drop_ins(one, addresses=addresses.replace("IPAddressAllow=localhost\n", "")):
        one.wait(lambda: status(one)["ticks"] >= 4, 20)
        assert (status(one)["connected"], status(one)["acknowledged_reports"]) == (False, 0)
    wait_for_reports(one, count=2)


def in_sandbox(host: Host, name: str, script: str) -> str:
    """What a program prints that runs in place of the agent, as its unit would have it run."""
    host.write("/opt/probe.py", script)
    run = f"ExecStart=\nExecStart=/usr/bin/python3 /opt/probe.py\nSyslogIdentifier={name}"
    unit = f"[Service]\nType=oneshot\nRemainAfterExit=yes\nWatchdogSec=0\nRestart=no\n{run}\n"
    with drop_ins(host, probe=unit):
        host.run("journalctl", "--sync")
        return host.run("journalctl", "--no-pager", "--output=cat", f"--identifier={name}").stdout


def test_the_sandbox_holds(one: Host) -> None:
    """A program in it reads what others may not, and can not change, signal, mount or sniff anything."""
    said = in_sandbox(
        one,
        "tried",
        """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def refused(name, action):
    try:
        print(name, "allowed", *(action() or ()))
    except OSError as error:
        print(name, errno.errorcode[error.errno])
refused("shadow", lambda: open("/etc/shadow").read() and ())
refused("write", lambda: open("/etc/new", "w"))
refused("home", lambda: os.listdir("/root"))
refused("kill", lambda: os.kill(1, 9))
refused("sniff", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
refused("unshare", lambda: checked(libc.unshare(0x20000)))
refused("mount", lambda: checked(libc.mount(b"x", b"/mnt", b"tmpfs", 0, None)))
""",
    )
    assert said.splitlines() == [
        "shadow allowed",
        "write EROFS",
        "home allowed",  # and empty
        "kill EPERM",
        "sniff EAFNOSUPPORT",
        "unshare EPERM",
        "mount EPERM",
    ]


def test_descriptors_are_counted_the_fast_way_in_it(one: Host) -> None:
    """The kernel tells their number as the size of /proc/PID/fd (Linux 6.2), of processes of other users too."""
    script = "import os; print(os.stat('/proc/1/fd').st_size == len(os.listdir('/proc/1/fd')) > 10)"
    assert in_sandbox(one, "counted", script) == "True\n"
