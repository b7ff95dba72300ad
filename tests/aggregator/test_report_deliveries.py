"""Deliveries of reports while the aggregator stops: what is being sent is waited for, so that it is not sent again."""

from __future__ import annotations

import asyncio
import re
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
from support.reports import HOUR, NOW
from support.webhooks import receiver


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ReportState]:
    """With a report that is to go to two webhooks."""
    one = ReportState(tmp_path)
    one.note_due("daily", "t", NOW, lambda _looked: Plan(NOW, ()))
    (run,) = one.runs_to_build(NOW)
    one.built(run.id, NOW, "1 new", fleet_report().SerializeToString(), ["webhook first", "webhook second"])
    yield one
    one.close()


class _Hook:
    """A web server that has taken a message, and says so when it is told to."""

    def __init__(self) -> None:
        self.came = 0
        self.ids: list[str] = []
        self.arrived, self.answers = asyncio.Event(), asyncio.Event()
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.came += 1
        self.ids += re.findall(r"(?i)^webhook-id: (\S+)", head.decode(), re.MULTILINE)
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
    listed = [(one.target, one.state, one.attempts) for one in other.deliveries(other.latest_runs(1, NOW)[0].id)]
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
    """The other end may have taken it, or not: it is told again by the same id."""

    async def stops_and_starts() -> Sequence[str]:
        async with _hook() as hook:
            deliveries = await _begun(tmp_path, state, hook)
            await deliveries.stop(patience=0.01)
            after = _after_a_restart(state, tmp_path)
            assert after == [("webhook first", "waiting", 1), ("webhook second", "waiting", 0)]
            hook.answers.set()
            other = ReportState(tmp_path)
            await _to_its_end(await _begun(tmp_path, other, hook))
            other.close()
            return hook.ids

    first, again, second = asyncio.run(stops_and_starts())
    assert first == again != second


async def _to_its_end(deliveries: Deliveries) -> None:
    for _ in range(2):
        await deliveries.ended()
        await deliveries.begin_due(lambda: None)
    await deliveries.ended()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no report of this name is in the file of reports any more"),
        (
            '[[report]]\nname = "renamed"\ncron = "0 8 * * *"\nfolder = "/tmp/x"\n',
            "no report of this name is in the file of reports any more",
        ),
        (
            '[[report]]\nname = "daily"\ncron = "0 8 * * *"\nfolder = "/tmp/x"\n',
            "the report does not go there any more, by the file of reports",
        ),
    ],
)
def test_what_the_file_does_not_have_any_more_is_given_up_at_once(
    tmp_path: Path, state: ReportState, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    """A schedule or a target that was taken out or renamed while a delivery waits for its next try: it is said."""
    for delivery in state.deliveries(state.latest_runs(1, NOW)[0].id):
        state.sending(delivery.id, NOW)
        state.not_delivered(delivery.id, "answered 503", NOW + HOUR)
    file = tmp_path / "reports.toml"
    file.write_text(text)

    async def looks() -> None:
        await _to_its_end(Deliveries(await asyncio.to_thread(load_reports, file), state, tmp_path, FakeClock()))

    asyncio.run(looks())
    found = state.deliveries(state.latest_runs(1, NOW)[0].id)
    assert [(one.state, one.attempts, one.error) for one in found] == [("failed", 1, why)] * 2
    assert f"report daily is not sent any more: webhook second: {why}" in caplog.text


def test_what_is_given_up_at_once_is_said_in_words(
    tmp_path: Path, state: ReportState, caplog: pytest.LogCaptureFixture
) -> None:
    """After one try, not after "1 tries"."""

    async def sends() -> None:
        with receiver([(404, {}), (404, {})]) as hook:
            port = int(hook.url.rpartition(":")[2])
            file = await asyncio.to_thread(_file, tmp_path, port)
            await _to_its_end(Deliveries(file, state, tmp_path, FakeClock()))

    asyncio.run(sends())
    assert "webhook first: answered 404 Not Found; given up after 1 try" in caplog.text
    assert "1 tries" not in caplog.text


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
