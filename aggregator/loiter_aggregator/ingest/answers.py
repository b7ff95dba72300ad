"""What goes back on one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

import grpc

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import socket_pb2

Context = grpc.aio.ServicerContext[bytes, pb.StreamReportsResponse]

# An agent that does not read its rejections is read no further either.
_MAX_REJECTIONS: Final = 1_000


class Hearer(Protocol):
    """Who hears what became of reports."""

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Hears that all reports of an epoch up to a sequence are durable."""

    def reject(self, rejection: pb.ReportRejection) -> None:
        """Hears that a report is not taken, and that its loss is durable. Comes before what acknowledges more."""


class Answers:
    """Acknowledgements, merged while they wait, and rejections before them, in a bounded number; and a question."""

    def __init__(self, context: Context) -> None:
        """Takes the stream to write to."""
        self._context = context
        self._acknowledged: dict[int, int] = {}  # epoch → sequence
        self._rejections: deque[pb.ReportRejection] = deque()
        self._query: socket_pb2.SocketQuery | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._writing = asyncio.Lock()

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Has an acknowledgement sent soon."""
        self._acknowledged[epoch] = sequence
        self._changed.set()

    def reject(self, rejection: pb.ReportRejection) -> None:
        """Has a rejection sent soon."""
        self._rejections.append(rejection)
        if len(self._rejections) >= _MAX_REJECTIONS:
            self._room.clear()
        self._changed.set()

    def ask(self, query: socket_pb2.SocketQuery) -> None:
        """Has a question sent soon, in place of one that was not sent yet."""
        self._query = query
        self._changed.set()

    async def room(self) -> None:
        """Waits while too many rejections wait."""
        await self._room.wait()

    async def run(self) -> None:
        """Sends what comes until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.flush()

    async def flush(self) -> None:
        """Sends what waits."""
        async with self._writing:
            while True:
                if self._rejections:
                    response = pb.StreamReportsResponse(report_rejection=self._rejections.popleft())
                elif self._acknowledged:
                    epoch, sequence = self._acknowledged.popitem()
                    response = pb.StreamReportsResponse(report_ack=pb.ReportAck(spool_epoch=epoch, sequence=sequence))
                elif self._query is not None:
                    response, self._query = pb.StreamReportsResponse(socket_query=self._query), None
                else:
                    self._room.set()
                    return
                await self._context.write(response)
