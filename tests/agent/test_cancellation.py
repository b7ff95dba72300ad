"""Spool and uplink, where who waits for something is cancelled: what was begun is done, and others hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from loiter_agent.failure import Failure, Kind
from loiter_agent.spool import Spool
from loiter_agent.uplink import _end_of
from support.reports import boot_id, host_id, sample

TIMEOUT_SECONDS = 20
HOST = "web-1"


async def with_spool(folder: Path, scene: Callable[[Spool], Awaitable[None]]) -> None:
    spool = Spool(host_id(HOST), boot_id(HOST), folder, 10_000_000, 86_400.0)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await scene(spool)
    finally:
        await spool.close()


async def cancel_amid(work: Awaitable[None]) -> None:
    """Has something begin, and cancels it."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_who_waits_for_the_last_acknowledgement_hears_of_it(tmp_path: Path) -> None:
    """Even if the stream is ended as it comes in."""

    async def scene(spool: Spool) -> None:
        await spool.append(sample(), 1.0)
        draining = asyncio.create_task(spool.drained())
        await cancel_amid(spool.acknowledge(spool.instance, 1))
        await draining

    asyncio.run(with_spool(tmp_path, scene))


def test_a_report_whose_tick_is_cancelled_is_sent_all_the_same(tmp_path: Path) -> None:
    """The live lane waits for it."""

    async def scene(spool: Spool) -> None:
        reading = asyncio.create_task(spool.read_live(spool.instance, 0))
        await asyncio.sleep(0)
        await cancel_amid(spool.append(sample(), 1.0))
        assert [report.sequence for report in await reading] == [1]

    asyncio.run(with_spool(tmp_path, scene))


def test_a_session_that_breaks_as_it_is_cancelled_does_not_keep_an_uplink_running() -> None:
    """It ends with what broke it, and the uplink as cancelled."""

    async def break_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Failure(Kind.AWAY, "broken meanwhile") from None

    async def scene() -> None:
        waiting = asyncio.create_task(_end_of(asyncio.create_task(break_when_cancelled())))
        for _ in range(3):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scene())


def test_a_session_that_is_cancelled_alone_is_over_without_a_failure() -> None:
    """As when an uplink is configured anew."""

    async def scene() -> None:
        session = asyncio.create_task(asyncio.Event().wait())
        ending = asyncio.create_task(_end_of(session))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        session.cancel()
        await ending

    asyncio.run(scene())
