"""`loiter sockets`: an agent is asked by its open stream, and what it answers is what ss(8) shows on the host."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import grpc
import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub
from support.netns import Netns, netns
from support.programs import Aggregator, Program, agent_command, aggregator, ask, leaklab, loiter, running, wait_until
from support.reports import host_id

_CLOSE_WAIT = 6
_TIME_WAIT = 4
_OF_SS = {"established": "ESTAB", "close_wait": "CLOSE-WAIT", "fin_wait2": "FIN-WAIT-2", "listen": "LISTEN"}


@dataclass(frozen=True)
class Scene:
    """An agent that answers, one that is set not to, and a process that holds sockets in a namespace of its own."""

    aggregator: Aggregator
    agent: Program
    holder: Program
    inside: Netns
    stub: Any

    def sockets(self, *flags: str) -> Any:
        """What the command line answers, as JSON. The agent answers once a second."""
        return ask(self.aggregator.server, "sockets", "answering", *flags)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All of them, once both hosts have reported."""
    folder = tmp_path_factory.mktemp("sockets")
    with ExitStack() as stack:
        inside = stack.enter_context(netns())
        command = leaklab(
            "holder", "--close-wait", str(_CLOSE_WAIT), "--established", "3", "--time-wait", str(_TIME_WAIT)
        )
        holder = stack.enter_context(running(inside.command(command), folder / "holder.log"))
        one = stack.enter_context(aggregator(folder))
        agents = []
        for name, answers in (("answering", "true"), ("silent", "false")):
            environment = {"LOITER_HOST_ID": host_id(name), "LOITER_ANSWER_SOCKETS": answers}
            (folder / name).mkdir()
            command = agent_command(one.server, folder / name, "--hostname", name, interval="500ms")
            agents.append(stack.enter_context(running(command, folder / f"{name}.log", environment)))
        assert holder.line() == "ready 0"
        stub: Any = FleetServiceStub(stack.enter_context(grpc.insecure_channel(one.server)))
        wait_until(lambda: _fleet(stub).coverage.hosts_reporting == 2, 15, "both hosts have reported")
        yield Scene(one, agents[0], holder, inside, stub)
        for program in (*agents, holder, one.program):  # all are told before any is waited for
            program.process.terminate()


def _fleet(stub: Any) -> pb.GetFleetResponse:
    answer: pb.GetFleetResponse = stub.GetFleet(pb.GetFleetRequest(), timeout=15)
    return answer


def _of_ss(scene: Scene) -> set[tuple[str, ...]]:
    """State, queues, ends and pid of each socket, as ss prints them; without its process where there is none."""
    done = subprocess.run(scene.inside.command(["ss", "-tanpH"]), capture_output=True, text=True, check=True)
    found: set[tuple[str, ...]] = set()
    for line in done.stdout.splitlines():
        state, received, sent, local, peer, *process = line.split()
        pid = re.search(r"pid=(\d+)", " ".join(process))
        found.add((state, received, sent, local, peer, pid[1] if pid else ""))
    return found


def test_the_sockets_of_a_process_are_those_that_ss_shows(scene: Scene) -> None:
    """States, queues, ends and owner alike, in a network namespace of their own; and since when."""
    found = scene.sockets("--pid", str(scene.holder.pid))
    rows = {
        (
            _OF_SS[row["state"]],
            str(row["receive_queue"]),
            str(row["send_queue"]),
            row["local"],
            row["peer"],
            str(row["pid"]),
        )
        for row in found["sockets"]
    }
    expected = {row for row in _of_ss(scene) if row[0] not in ("LISTEN", "TIME-WAIT")}
    assert rows == expected
    assert (found["matching"], found["unattributed"]) == (2 * _CLOSE_WAIT + 2 * 3, 0)
    namespace = str(os.stat(f"/proc/{scene.holder.pid}/ns/net").st_ino)
    assert {(row["app"], row["namespace"]) for row in found["sockets"]} == {("holder.py", namespace)}
    # Those in CLOSE_WAIT come first, the oldest first, and none is older than its process.
    started = time.time() - os.stat(f"/proc/{scene.holder.pid}").st_mtime
    ages = [row["age_seconds"] for row in found["sockets"][:_CLOSE_WAIT]]
    assert all(0 < age <= started + 1 for age in ages)
    assert ages == sorted(ages, reverse=True)
    assert all(row["idle_seconds"] is not None for row in found["sockets"])


def test_time_wait_and_listeners_are_listed_when_they_are_asked_for(scene: Scene) -> None:
    """TIME_WAIT sockets have no owner, and their age is by the time that they have left."""
    found = scene.sockets("--state", "time-wait", "--state", "listen", "--limit", "1000")
    namespace = str(os.stat(f"/proc/{scene.holder.pid}/ns/net").st_ino)
    rows = [row for row in found["sockets"] if row["namespace"] == namespace]
    waiting = [row for row in rows if row["state"] == "time_wait"]
    # Of all namespaces of the machine, a thousand are shown: where others have so many that are older, those are.
    assert len(waiting) == _TIME_WAIT or found["matching"] > 1_000
    assert {(row["local"], row["peer"]) for row in waiting} <= {row[3:5] for row in _of_ss(scene)}
    waiting = [row for row in found["sockets"] if row["state"] == "time_wait"]
    assert waiting
    assert all(0 <= row["age_seconds"] <= 60 and row["pid"] is None for row in waiting)
    (listener,) = [row for row in rows if row["state"] == "listen"]
    assert (listener["pid"], listener["receive_queue"], listener["send_queue"]) == (scene.holder.pid, 0, 128)


def test_an_agent_that_is_set_not_to_is_not_asked(scene: Scene) -> None:
    """The command says which setting it is, and who asks is in the log all the same."""
    done = loiter("sockets", "silent", "--pid", "1", server=scene.aggregator.server)
    assert (done.returncode, done.stdout) == (1, "")
    assert "answer_sockets" in done.stderr
    assert "anyone at 127.0.0.1 asks for the sockets of silent: process 1" in scene.aggregator.program.logged()


def test_a_process_that_is_not_there_is_said_so(scene: Scene) -> None:
    """And not that it has no sockets."""
    done = loiter("sockets", "answering", "--pid", "4194304", server=scene.aggregator.server)
    assert done.returncode == 1
    assert "there is no process 4194304" in done.stderr


def test_a_flood_of_questions_holds_up_no_tick(scene: Scene) -> None:
    """Few are answered, the others turned away; reports go on to come, and the agent has no port open."""
    outcomes: Counter[str] = Counter()
    enough = Event()
    before = _fleet(scene.stub).aggregator.reports_stored
    flood = [Thread(target=_flood, args=(scene.stub, enough, outcomes)) for _ in range(8)]
    for thread in flood:
        thread.start()
    try:
        # Three ticks of two hosts, and as long as it takes for an answer.
        wait_until(lambda: _more(scene, before) >= 6 and outcomes["OK"], 20, "reports and an answer come")
    finally:
        enough.set()
        for thread in flood:
            thread.join()
    assert outcomes["RESOURCE_EXHAUSTED"] > outcomes["OK"]
    assert ask(scene.aggregator.server, "host", "answering")["lost_samples"] == []
    assert "Traceback" not in scene.agent.logged()
    listening = subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True, check=True).stdout
    assert f"pid={scene.aggregator.program.pid}," in listening
    assert f"pid={scene.agent.pid}," not in listening


def _flood(stub: Any, enough: Event, outcomes: Counter[str]) -> None:
    while not enough.wait(0.005):
        try:
            stub.ListSockets(pb.ListSocketsRequest(name="answering", limit=1_000), timeout=3)
            outcomes["OK"] += 1
        except grpc.RpcError as failed:
            error: Any = failed  # of a call, all have a code
            outcomes[error.code().name] += 1


def _more(scene: Scene, than: int) -> int:
    return _fleet(scene.stub).aggregator.reports_stored - than
