"""Deliveries of reports while the aggregator stops: what is being sent is waited for, so that it is not sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loiter_aggregator.reports.deliveries import Deliveries
from loiter_aggregator.reports.due import Plan
from loiter_aggregator.reports.file import ReportFile, load_reports
from loiter_aggregator.reports.state import ReportState
from support.aggregators import FakeClock
from support.fleet_reports import fleet_report
from support.programs import wait_until
from support.reports import NOW


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ReportState]:
    """With a report that is to go to two webhooks."""
    one = ReportState(tmp_path)
    one.note_due("daily", "t", NOW, lambda _looked: Plan(NOW, ()))
    (run,) = one.runs_to_build()
    one.built(run.id, NOW, "1 new", fleet_report().SerializeToString(), ["webhook first", "webhook second"])
    yield one
    one.close()


class _Hook:
    """A web server that has taken a message, and says so when it is told to."""

    def __init__(self) -> None:
        self.came = 0
        self.arrived, self.answers = asyncio.Event(), asyncio.Event()
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.came += 1
        self.arrived.set()
        try:
            await self.answers.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        finally:
            writer.close()


@asynccontextmanager
async def _hook() -> AsyncIterator[_Hook]:
    hook = _Hook()
    server = await asyncio.start_server(hook.take, "127.0.0.1", 0, limit=1 << 20)
    hook.port = server.sockets[0].getsockname()[1]
    try:
        yield hook
    finally:
        hook.answers.set()
        server.close()


def _file(folder: Path, port: int) -> ReportFile:
    hooks = "".join(f'[[webhook]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}/"\n' for name in ("first", "second"))
    file = folder / "reports.toml"
    file.write_text(f'[[report]]\nname = "daily"\ncron = "0 8 * * *"\nwebhooks = ["first", "second"]\n{hooks}')
    return load_reports(file)


async def _begun(folder: Path, state: ReportState, hook: _Hook) -> Deliveries:
    """One of the two is being sent."""
    deliveries = Deliveries(await asyncio.to_thread(_file, folder, hook.port), state, folder, FakeClock())
    await deliveries.begin_due(lambda: None)
    await hook.arrived.wait()
    return deliveries


def _after_a_restart(state: ReportState, folder: Path) -> Sequence[tuple[str, str, int]]:
    state.close()
    other = ReportState(folder)
    listed = [(one.target, one.state, one.attempts) for one in other.deliveries(other.latest_runs(1)[0].id)]
    other.close()
    return listed


@pytest.fixture(autouse=True)
def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loiter_aggregator.reports.deliveries._AT_ONCE", 1)


def test_what_is_being_sent_is_waited_for_and_nothing_else_is_begun(tmp_path: Path, state: ReportState) -> None:
    """What has arrived by then is recorded as such; the rest is sent after the next start."""

    async def stops() -> int:
        async with _hook() as hook:
            deliveries = await _begun(tmp_path, state, hook)
            stopping = asyncio.create_task(deliveries.stop())
            await asyncio.sleep(0)
            await deliveries.begin_due(lambda: None)
            assert not stopping.done()
            hook.answers.set()
            await stopping
            await deliveries.begin_due(lambda: None)
            await deliveries.ended()
            return hook.came

    assert asyncio.run(stops()) == 1
    assert _after_a_restart(state, tmp_path) == [("webhook first", "delivered", 1), ("webhook second", "waiting", 0)]


def test_what_takes_too_long_is_sent_again(tmp_path: Path, state: ReportState) -> None:
    """The other end may have taken it, or not."""

    async def stops() -> None:
        async with _hook() as hook:
            deliveries = await _begun(tmp_path, state, hook)
            await deliveries.stop(patience=0.01)

    asyncio.run(stops())
    assert _after_a_restart(state, tmp_path) == [("webhook first", "waiting", 1), ("webhook second", "waiting", 0)]


def test_what_has_arrived_is_recorded_though_the_record_is_busy_at_the_end(tmp_path: Path, state: ReportState) -> None:
    """It is waited for, or it would be sent again."""

    async def stops() -> None:
        async with _hook() as hook:
            deliveries = await _begun(tmp_path, state, hook)
            state._lock.acquire()
            hook.answers.set()
            await asyncio.to_thread(wait_until, lambda: deliveries._recording, 20, "it has arrived")
            stopping = asyncio.create_task(deliveries.stop(patience=0.0))
            done, _ = await asyncio.wait([stopping], timeout=0.05)
            state._lock.release()
            assert not done
            await stopping

    asyncio.run(stops())
    assert _after_a_restart(state, tmp_path)[0] == ("webhook first", "delivered", 1)
