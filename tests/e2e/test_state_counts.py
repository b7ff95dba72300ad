"""The counts of the agent against those of ss(8) and of the one-liner that people run today."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from support.netns import Netns, netns
from support.programs import BIN, leaklab, run, running

# Connections of each holder: each makes two sockets in ESTABLISHED, or one in CLOSE_WAIT and one in FIN_WAIT2.
ESTABLISHED, CLOSE_WAIT, TIME_WAIT = 1_250, 1_250, 1_250
HOLDERS = 2 * 2  # two processes for each family

NETSTAT = "netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'"
NETSTAT_NAMES = {
    "ESTABLISHED": "established",
    "CLOSE_WAIT": "close_wait",
    "TIME_WAIT": "time_wait",
    "FIN_WAIT2": "fin_wait2",
}
SS_NAMES = {
    "ESTAB": "established",
    "CLOSE-WAIT": "close_wait",
    "TIME-WAIT": "time_wait",
    "FIN-WAIT-2": "fin_wait2",
    "LISTEN": "listen",
}


def _output(inside: Netns, *command: str | Path) -> str:
    done = run(inside.command(command))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_counts_equal_those_of_ss_and_netstat(tmp_path: Path) -> None:
    """10,000 sockets and more in ESTABLISHED, CLOSE_WAIT and TIME_WAIT over IPv4 and IPv6, held still."""
    with netns() as inside, ExitStack() as stack:
        counts = ("--established", str(ESTABLISHED), "--close-wait", str(CLOSE_WAIT), "--time-wait", str(TIME_WAIT))
        holders = [
            stack.enter_context(
                running(
                    inside.command(leaklab("holder", *counts, *(["--ipv6"] if number % 2 else []))),
                    tmp_path / f"holder{number}.log",
                )
            )
            for number in range(HOLDERS)
        ]
        assert [holder.line() for holder in holders] == ["ready 0"] * HOLDERS

        # Where it sees no process but itself, it knows of no network namespace but its own.
        alone = ("unshare", "--pid", "--fork", "--mount-proc")
        sample = json.loads(_output(inside, *alone, BIN / "loiter-agent", "sample", "-o", "json"))
        ss_lines = _output(inside, "ss", "-tan").splitlines()[1:]
        netstat_lines = _output(inside, "sh", "-c", NETSTAT).splitlines()

    ss: dict[str, int] = {}
    for line in ss_lines:
        state = SS_NAMES[line.split()[0]]
        ss[state] = ss.get(state, 0) + 1
    netstat = {NETSTAT_NAMES[line.split()[0]]: int(line.split()[1]) for line in netstat_lines}
    ours = {state: count for state, count in sample["tcp_states"].items() if count}

    assert ours == {
        "established": 2 * ESTABLISHED * HOLDERS,
        "close_wait": CLOSE_WAIT * HOLDERS,
        "fin_wait2": CLOSE_WAIT * HOLDERS,
        "time_wait": TIME_WAIT * HOLDERS,
        "listen": HOLDERS,
    }
    assert ours["established"] + ours["close_wait"] + ours["time_wait"] >= 10_000
    assert ss == ours
    # netstat -n leaves listeners out.
    assert netstat == {state: count for state, count in ours.items() if state != "listen"}
    assert sample["sampler"] == "sock_diag"
