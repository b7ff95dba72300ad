"""When an agent answers questions for sockets: between ticks, one at a time, and not too often."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter.v1 import socket_pb2 as pb
from loiter.v1.ingest_service_pb2_grpc import IngestServiceServicer, add_IngestServiceServicer_to_server
from loiter_agent.security import Security
from loiter_agent.socket_answers import SocketAnswers
from loiter_agent.socket_rows import GaveWay, Listing, NothingListed, Wanted
from loiter_agent.spool import Spool
from loiter_agent.uplink import Uplink

LISTING = Listing(datetime(2027, 1, 15, 8, tzinfo=UTC), (), 12, 0, 0)


class Scene:
    """Answers by a clock that moves when somebody sleeps. `read` is what lists the sockets, in a thread."""

    def __init__(self, read: Callable[[Wanted, Callable[[], bool]], Listing] = lambda *_: LISTING) -> None:
        self.now = 100.0
        self.read = read
        self.reads = 0
        self.used: list[float] = []
        self.ticking = asyncio.Lock()
        self.answers = SocketAnswers(self._list, self.ticking, self.used.append, lambda: self.now, self._sleep)

    def _list(self, wanted: Wanted, due: Callable[[], bool]) -> Listing:
        self.reads += 1
        return self.read(wanted, due)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds

    async def ask(self, query_id: int = 1, **fields: Any) -> pb.SocketAnswer:
        return await self.answers.answer(pb.SocketQuery(query_id=query_id, **fields))


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Runs a scenario to its end."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


def test_answers_are_a_second_apart_at_least() -> None:
    """Whoever asks sooner waits, and what it took is told of."""

    async def scenario() -> None:
        scene = Scene()
        for number in range(6):
            answer = await scene.ask(number)
            assert (answer.query_id, answer.matching, answer.error) == (number, 12, "")
        assert scene.now == 105
        assert len(scene.used) == scene.reads == 6

    run(scenario)


def test_a_new_question_takes_the_place_of_those_that_wait() -> None:
    """The aggregator asks one at a time: nobody waits for the answers to the others any more."""

    async def scenario() -> None:
        scene = Scene()
        answers = await asyncio.gather(*(scene.ask(number) for number in range(5)))
        assert [answer.query_id for answer in answers] == list(range(5))
        assert [answer.error for answer in answers] == ["a newer question took its place"] * 4 + [""]
        assert scene.reads == 1

    run(scenario)


def test_a_dear_answer_puts_the_next_one_off() -> None:
    """So that answers take no more than the budget of the ticks once again."""

    async def scenario() -> None:
        scene = Scene()
        scene.answers.cpu_share = 1e-9
        assert (await scene.ask()).matching == 12
        assert (await scene.ask()).error == "it has just answered, and does so again in 1m"
        scene.now += 60
        assert (await scene.ask()).matching == 12

    run(scenario)


def test_a_reading_gives_way_to_a_tick_and_begins_anew_after_it() -> None:
    """The tick does not wait for its end."""

    async def scenario() -> None:
        started = threading.Event()

        def read(_: Wanted, due: Callable[[], bool]) -> Listing:
            if scene.reads > 1:
                return LISTING
            started.set()
            while not due():
                pass
            raise GaveWay

        scene = Scene(read)
        asking = asyncio.create_task(scene.ask())
        await asyncio.to_thread(started.wait)
        scene.answers.tick_is_due = True
        async with scene.ticking:
            scene.answers.tick_is_due = False
            assert (scene.reads, asking.done()) == (1, False)
        assert (await asking).matching == 12
        assert scene.reads == 2

    run(scenario)


def test_where_there_is_never_time_between_ticks_the_answer_says_so() -> None:
    """It does not go on for ever."""

    async def scenario() -> None:
        def read(*_: object) -> Listing:
            raise GaveWay

        scene = Scene(read)
        assert "not enough time between two ticks" in (await scene.ask()).error
        assert scene.reads == 5

    run(scenario)


def test_no_tick_begins_while_a_reading_goes_on_that_nobody_waits_for() -> None:
    """The stream broke: the thread that reads has the sampler until it is done."""

    async def scenario() -> None:
        started, go_on = threading.Event(), threading.Event()

        def read(*_: object) -> Listing:
            started.set()
            go_on.wait()
            return LISTING

        scene = Scene(read)
        asking = asyncio.create_task(scene.ask())
        await asyncio.to_thread(started.wait)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        assert scene.ticking.locked()
        go_on.set()
        async with scene.ticking:
            assert scene.reads == 1

    run(scenario)


def test_what_can_not_be_had_is_said_in_the_answer() -> None:
    """So is a mistake of ours, of which the log has the rest: reports go on."""

    async def scenario() -> None:
        for failure, said in (
            (NothingListed("there is no process 7"), "there is no process 7"),
            (PermissionError(13, "Permission denied"), "Permission denied"),
            (ZeroDivisionError(), "its log says more"),
        ):

            def read(*_: object, failure: Exception = failure) -> Listing:
                raise failure

            answer = await Scene(read).ask(3)
            assert (answer.query_id, said in answer.error, answer.HasField("matching")) == (3, True, False)

    run(scenario)


class Asking(IngestServiceServicer):
    """An aggregator that asks as soon as a stream is open, and acknowledges nothing."""

    def __init__(self) -> None:
        self.hello = ingest_service_pb2.Hello()
        self.answers: asyncio.Queue[pb.SocketAnswer] = asyncio.Queue()

    async def StreamReports(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[ingest_service_pb2.StreamReportsRequest], _: object
    ) -> AsyncIterator[ingest_service_pb2.StreamReportsResponse]:
        async for request in request_iterator:
            if request.HasField("hello"):
                self.hello = request.hello
                yield ingest_service_pb2.StreamReportsResponse(hello_ack=ingest_service_pb2.HelloAck())
                for number in (5, 6):
                    query = pb.SocketQuery(query_id=number)
                    yield ingest_service_pb2.StreamReportsResponse(socket_query=query)
            elif request.HasField("socket_answer"):
                self.answers.put_nowait(request.socket_answer)


async def _asked(folder: Path, answer: Any) -> tuple[bool, list[pb.SocketAnswer]]:
    """What an uplink says in its hello, and what it answers to two questions."""
    server, asking = grpc.aio.server(), Asking()
    add_IngestServiceServicer_to_server(asking, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    spool = Spool("ab" * 16, "boot", folder, 64_000_000, 86_400.0)
    uplink = Uplink(spool)
    host = sample_pb2.Host(host_id="ab" * 16, hostname="web-1")
    uplink.configure((f"127.0.0.1:{port}",), host, 1.0, Security(), answer)
    running = asyncio.create_task(uplink.run())
    try:
        answers = [await asking.answers.get() for _ in range(2)]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(0)
        await spool.close()
    return asking.hello.answers_socket_queries, answers


def test_questions_are_answered_on_the_stream(tmp_path: Path) -> None:
    """The hello says that they are."""

    async def scenario() -> None:
        answers_queries, answers = await _asked(tmp_path, Scene().answers.answer)
        assert answers_queries
        assert {answer.query_id for answer in answers} == {5, 6}
        assert [answer.matching for answer in answers if answer.query_id == 6] == [12]

    run(scenario)


def test_an_agent_that_is_set_not_to_answer_says_so_and_refuses(tmp_path: Path) -> None:
    """Also where it is asked all the same."""

    async def scenario() -> None:
        answers_queries, answers = await _asked(tmp_path, None)
        assert not answers_queries
        assert [(one.query_id, "answer_sockets" in one.error) for one in answers] == [(5, True), (6, True)]

    run(scenario)
