"""The network between agents and aggregator is cut: nothing is lost, and what is new does not wait for what is old."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from support.audit import check_accounts, check_samples, stored, taken
from support.links import NEAR_ADDRESS, Link
from support.netns import netns
from support.programs import BIN, Program, running, wait_until
from support.side_by_side import side_by_side
from support.soaking import SOAK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can connect two network namespaces")

SERVER = f"{NEAR_ADDRESS}:7433"
TICK_MS = 500
AGENTS = 20
BEFORE_SECONDS = 3
# Beyond the ten seconds after which either side gives a silent connection up: a shorter cut may end either way.
CUT_SECONDS = 180 if SOAK else 14
# The longest that a stream takes to be open again once packets arrive: the longest pause between two attempts, and an
# attempt that was begun before.
RECOVERY_SECONDS = 60
# Acknowledgements come once a second.
MOST_ON_THEIR_WAY = 4


@dataclass(frozen=True)
class Cut:
    """A way to cut a link, and to mend it."""

    begin: Callable[[Link], None]
    end: Callable[[Link], None]


CUTS = {"the link is down": Cut(Link.unplug, Link.plug_in), "packets vanish": Cut(Link.swallow, Link.deliver)}


@dataclass(frozen=True)
class Arrival:
    """A sample of one host: when it was taken, and when it arrived. In milliseconds."""

    taken: int
    received: int


def arrivals(database: Path) -> dict[int, list[Arrival]]:
    """The samples of each host, in the order of their arrival."""
    found: dict[int, list[Arrival]] = {}
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute("SELECT host_key, ts, received FROM host_sample ORDER BY received, rowid").fetchall()
    for host, taken_at, received in rows:
        found.setdefault(host, []).append(Arrival(taken_at, received))
    return found


def now_ms() -> int:
    """The clock that both sides have."""
    return time.time_ns() // 1_000_000


# One after the other where there is time for it.
@pytest.mark.parametrize("ways", [[way] for way in CUTS] if SOAK else [list(CUTS)], ids=", ".join)
@pytest.mark.timeout(600 if SOAK else 180)
def test_after_a_cut_all_arrives_in_order_and_new_samples_at_once(ways: list[str], tmp_path: Path) -> None:
    """From the first sample that arrives again on, what is taken is stored within two ticks, while the rest follows."""
    side_by_side(_cut, ways, tmp_path)


def _cut(how: str, folder: Path) -> None:
    store = folder / "store"
    with ExitStack() as stack:
        near, far = stack.enter_context(netns()), stack.enter_context(netns())
        link = Link(near, far)
        serve = near.command([BIN / "loiter", "serve", "--listen", SERVER, "--insecure", "--data-dir", store])
        aggregator = stack.enter_context(running(serve, folder / "aggregator.log"))
        aggregator.wait_for_log("listening on")
        agents = _agents(stack, far.command, folder)
        time.sleep(BEFORE_SECONDS)
        began = now_ms()
        CUTS[how].begin(link)
        time.sleep(CUT_SECONDS)
        ended = now_ms()
        CUTS[how].end(link)
        wait_until(lambda: _waiting(agents) <= MOST_ON_THEIR_WAY, RECOVERY_SECONDS, "nothing waits any more")
        back = now_ms()
        time.sleep(5 * TICK_MS / 1_000)
        agents.process.send_signal(signal.SIGTERM)
        assert agents.stop(seconds=100) == 0, agents.logged()
        assert aggregator.stop() == 0
    found = stored(store / "loiter.duckdb")
    check_accounts(found.values())
    assert check_samples(taken(folder), found) == 0
    _check_arrivals(arrivals(store / "loiter.duckdb"), began, ended, back)


def _agents(stack: ExitStack, inside: Callable[[list[str | Path]], list[str | Path]], folder: Path) -> Program:
    command: list[str | Path] = [sys.executable, "-m", "support.synthetic_agents", "--server", SERVER]
    command += ["--folder", folder, "--agents", str(AGENTS), "--interval", str(TICK_MS / 1_000), "--patience", "90"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    agents = stack.enter_context(running(inside(command), folder / "agents.log", environment))
    assert agents.line() == "running", agents.logged()
    return agents


def _waiting(agents: Program) -> int:
    """The largest number of reports that wait with any of the agents."""
    agents.process.send_signal(signal.SIGUSR1)
    return int(agents.line())


def _check_arrivals(hosts: dict[int, list[Arrival]], began: int, ended: int, back: int) -> None:
    assert len(hosts) == AGENTS
    longest_lag = longest_recovery = most_waiting = 0
    for samples in hosts.values():
        # What was on its way when the cut began may arrive a moment after.
        after = [sample for sample in samples if sample.received > began + 1_000]
        assert all(sample.received >= ended for sample in after), "the network was not cut"
        first = min(sample.received for sample in after)
        longest_recovery = max(longest_recovery, first - ended)
        new = [sample for sample in after if sample.taken >= first]
        old = [sample for sample in after if sample.taken < first]
        most_waiting = max(most_waiting, len(old))
        assert new, "nothing was taken after the cut"
        longest_lag = max(longest_lag, max(sample.received - sample.taken for sample in new))
    print(
        f"streaming again {longest_recovery} ms after the cut, with up to {most_waiting} reports waiting, none "
        f"after {back - ended} ms; new samples at most {longest_lag} ms behind"
    )
    assert most_waiting >= CUT_SECONDS * 1_000 // TICK_MS - 2
    assert longest_lag <= 2 * TICK_MS
