"""A disk that fills up, the aggregator's or an agent's, and has room again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.audit import Stored, check_accounts, stored
from support.full_disks import leave_no_room, small_disk
from support.programs import agent_command, aggregator, ask, running, wait_until
from support.reports import host_id
from support.side_by_side import side_by_side
from support.spools import waiting

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")

HOST = "web-1"
ENVIRONMENT = {"LOITER_HOST_ID": host_id(HOST), "LOITER_HOSTNAME": HOST}
# What is kept while nothing can be stored: some seconds of samples.
MANY = 8
FEW = 3
NO_ROOM_IN_STORE = "is full; reports are not acknowledged until this is mended"


def samples(server: str) -> int:
    """How many samples the store has."""
    return int(ask(server, "fleet")["aggregator"]["reports_stored"])


def check_whole(folder: Path) -> Stored:
    """Fails unless the host's epochs have every sequence once, and none that is lost."""
    found = stored(folder / "store/loiter.duckdb")
    check_accounts(found.values())
    assert found[HOST].lost == {}
    return found[HOST]


def test_while_the_disk_of_the_aggregator_is_full_agents_keep_reports_and_people_get_answers(tmp_path: Path) -> None:
    """It says so once, and takes all of them as soon as there is room, without a restart."""
    with small_disk(tmp_path / "store", 12_000_000) as disk, aggregator(tmp_path) as one:
        command = agent_command(one.server, tmp_path, interval="500ms")
        with running(command, tmp_path / "agent.log", ENVIRONMENT) as agent:
            wait_until(lambda: samples(one.server), 20, "the agent reports")
            rest = leave_no_room(disk)
            one.program.wait_for_log(NO_ROOM_IN_STORE)
            before = samples(one.server)
            state = tmp_path / "agent-state"
            wait_until(lambda: len(waiting(state, tmp_path)) >= MANY, 20, "the agent keeps what is not acknowledged")
            assert samples(one.server) == before
            assert [row["host"] for row in ask(one.server, "top", "hosts")] == [HOST]
            assert ask(one.server, "host", HOST)["samples"] == before
            assert "could not be stored" not in one.program.logged()
            rest.unlink()
            wait_until(lambda: samples(one.server) >= before + MANY, 20, "what was kept is stored")
            wait_until(lambda: len(waiting(state, tmp_path)) <= FEW, 20, "the agent lets go of it")
            assert ask(one.server, "fleet")["losing_hosts"] == []
            assert agent.stop() == 0
            assert "ERROR" not in agent.logged()
        assert one.stop() == 0
        assert one.program.logged().count("ERROR") == one.program.logged().count(NO_ROOM_IN_STORE) == 1
        (sequences,) = check_whole(tmp_path).epochs.values()
        assert len(sequences) > before + MANY


def test_an_agent_whose_disk_is_full_reports_from_memory_until_there_is_room(tmp_path: Path) -> None:
    """It says so once, and once that it writes again; what is on the disk from then on survives kill -9."""
    side_by_side(check_full_disk, ["full at the start", "full later"], tmp_path)


def check_full_disk(how: str, tmp_path: Path) -> None:
    with aggregator(tmp_path) as one, small_disk(tmp_path / "agent-state", 4_000_000) as disk:
        command = agent_command(one.server, tmp_path, interval="500ms")
        rest = leave_no_room(disk) if how == "full at the start" else None
        with running(command, tmp_path / "agent.log", ENVIRONMENT) as agent:
            wait_until(lambda: samples(one.server), 20, "the agent reports")
            rest = rest or leave_no_room(disk)
            agent.wait_for_log("reports are kept in memory")
            wait_until(lambda: ask(one.server, "host", HOST)["spool"]["in_memory"], 20, "the aggregator is told")
            before = samples(one.server)
            wait_until(lambda: samples(one.server) >= before + FEW, 20, "reports are sent from memory")
            rest.unlink()
            agent.wait_for_log("is written again")
            assert agent.logged().count("ERROR") == agent.logged().count("reports are kept in memory") == 1
            assert agent.logged().count("is written again") == 1
            one.stop(signal.SIGKILL)
            wait_until(lambda: len(waiting(disk, tmp_path)) >= MANY, 20, "reports are kept on the disk")
            agent.stop(signal.SIGKILL)
        one.start()
        with running(command, tmp_path / "agent.log", ENVIRONMENT) as agent:
            wait_until(lambda: samples(one.server) >= MANY, 20, "what was kept is stored")
            wait_until(lambda: len(waiting(disk, tmp_path)) <= FEW, 20, "the agent lets go of it")
            assert agent.stop() == 0
        assert one.stop() == 0
        assert len(check_whole(tmp_path).epochs) >= 2
