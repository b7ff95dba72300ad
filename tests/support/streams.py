"""An agent's end of its stream, sent and read message by message, and a batcher that a test follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.service import SERVICE
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock
from support.reports import hello, open_stream


class NotedBatcher(Batcher):
    """A batcher that says when it has taken a report. It commits when the test does."""

    def __init__(self, store: DuckDbStore, clock: FakeClock, **more: Any) -> None:
        super().__init__(store, clock, **more)
        self._put = asyncio.Semaphore(0)
        self._put_rejected = asyncio.Semaphore(0)

    async def put(self, *arguments: Any, **more: Any) -> None:
        """Takes it as ever."""
        await super().put(*arguments, **more)
        self._put.release()

    async def put_rejected(self, *arguments: Any, **more: Any) -> None:
        """Takes it as ever."""
        await super().put_rejected(*arguments, **more)
        self._put_rejected.release()

    async def rejected(self) -> None:
        """Waits until one more report was rejected."""
        await self._put_rejected.acquire()

    async def taken(self, count: int) -> None:
        """Waits until so many more reports were taken."""
        for _ in range(count):
            await self._put.acquire()


class Agent:
    """An agent's end: sends messages, or bytes that are none."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        stream = self._channel.stream_stream(
            f"/{SERVICE}/StreamReports",
            request_serializer=lambda data: data,
            response_deserializer=pb.StreamReportsResponse.FromString,
        )
        self.call: Any = stream()

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def send(self, message: pb.StreamReportsRequest | bytes) -> None:
        """Sends one message."""
        await self.call.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def answer(self) -> pb.StreamReportsResponse:
        """Waits for the next answer."""
        response = await self.call.read()
        assert isinstance(response, pb.StreamReportsResponse), "the stream ended"
        return response

    async def greet(self, said: pb.Hello | None = None, sent: int | None = None) -> None:
        """Opens the stream, so many milliseconds after the boot of the host."""
        await self.send(open_stream(said or hello(), sent))
        assert (await self.answer()).WhichOneof("response") == "hello_ack"

    async def ack(self) -> tuple[int, int]:
        """Waits for the next answer, which is an acknowledgement: its epoch and sequence."""
        answer = await self.answer()
        assert answer.WhichOneof("response") == "report_ack", answer
        return answer.report_ack.spool_epoch, answer.report_ack.sequence

    async def rejection(self) -> pb.ReportRejection:
        """Waits for the next answer, which is a rejection."""
        answer = await self.answer()
        assert answer.WhichOneof("response") == "report_rejection", answer
        return answer.report_rejection

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        """Waits for the end of the stream: its code and details."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call.read()
        return caught.value.code(), caught.value.details() or ""


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds that no event tells."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to hold in ten seconds")
