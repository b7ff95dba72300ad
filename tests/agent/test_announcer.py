"""What others hear of an agent, whatever becomes of where they are told."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from loiter_agent.announcer import Announcer
from loiter_agent.beat import Beat
from loiter_agent.budget import Budget
from loiter_agent.spool import Spool
from loiter_agent.status import Status
from loiter_agent.uplink import Uplink


def test_a_status_that_could_not_be_written_is_written_with_the_next_tick(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is said once, and once more if it comes again."""
    folder = tmp_path / "run"
    spool = Spool("host", "boot", tmp_path / "state", max_bytes=1 << 20, max_age=3_600.0)
    announcer = Announcer({"RUNTIME_DIRECTORY": str(folder)}, Beat(10.0, 0.0), Budget(2.0), spool, Uplink(spool))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            announcer.tick_completed()
        folder.mkdir()
        announcer.tick_completed()
        status = Status.read(folder / "status.json")
        (folder / "status.json").unlink()
        folder.rmdir()
        announcer.tick_completed()
    asyncio.run(spool.close())
    assert status.ticks == 4
    assert status.last_tick_at is not None
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "No such file or directory; it is tried again"
    ] * 2
