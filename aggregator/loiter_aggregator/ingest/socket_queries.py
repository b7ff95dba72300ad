"""Asks agents for their sockets, by the streams that they keep open: one question at a time, answered in time or not.

An answer is kept only while somebody waits for it, so that no agent can fill the memory with what nobody asked for.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Final

from loiter.v1 import ingest_service_pb2, socket_pb2
from loiter_aggregator.ingest.answers import Answers
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.validation import Invalid, check_socket_answer

ANSWER_SECONDS: Final = 10.0
# An answer takes up to a megabyte, and some more once it is decoded.
_IN_HAND: Final = 32
# Those who ask for one host wait for each other.
_IN_HAND_OF_A_HOST: Final = 4


class NotConnected(Exception):
    """No agent of the host has a stream open."""


class DoesNotAnswer(Exception):
    """The agent of a release or with a setting that does not answer; the message is its release."""


class TooManyQuestions(Exception):
    """As many wait for their answer as may; the message says how many."""


class NoAnswer(Exception):
    """The stream broke, or what came was no answer; the message says which."""


@dataclass(eq=False, slots=True)
class AgentStream:
    """The stream of a host, by which its agent can be asked."""

    host_key: int
    agent_version: str
    answers_queries: bool
    answers: Answers
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_hand: int = 0
    open: bool = True
    asked: socket_pb2.SocketQuery | None = None
    answered: asyncio.Future[socket_pb2.SocketAnswer] | None = None

    def fail(self, reason: str) -> None:
        """Tells whoever waits for an answer that none comes."""
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(NoAnswer(reason))


class SocketQueries:
    """The streams that are open, and who waits for an answer by them."""

    def __init__(self, counters: Counters, seconds: float = ANSWER_SECONDS) -> None:
        """Takes where to count answers that nobody waited for, and how long to wait for one."""
        self._counters = counters
        self._seconds = seconds
        self._streams: dict[int, AgentStream] = {}
        self._ids = itertools.count(1)
        self._in_hand = 0

    def open(self, host_key: int, hello: ingest_service_pb2.Hello, answers: Answers) -> AgentStream:
        """A stream is open, until `close`. Of several of one host, the last one is asked."""
        stream = AgentStream(host_key, hello.host.agent_version, hello.answers_socket_queries, answers)
        self._streams[host_key] = stream
        return stream

    def close(self, stream: AgentStream) -> None:
        """A stream is over: who waits for an answer by it does so no longer."""
        stream.open = False
        stream.fail("the connection broke")
        if self._streams.get(stream.host_key) is stream:
            del self._streams[stream.host_key]

    async def ask(self, host_key: int, query: socket_pb2.SocketQuery) -> socket_pb2.SocketAnswer:
        """Asks the agent of a host. The id of the question is set here.

        Raises:
            NotConnected: There is no stream.
            DoesNotAnswer: The agent does not answer such questions, so it is not asked.
            TooManyQuestions: Too many wait for their answer.
            NoAnswer: The stream broke, or the answer breaks a rule.
            TimeoutError: No answer came in time.
        """
        stream = self._streams.get(host_key)
        if stream is None:
            raise NotConnected
        if not stream.answers_queries:
            raise DoesNotAnswer(stream.agent_version)
        if stream.in_hand >= _IN_HAND_OF_A_HOST:
            raise TooManyQuestions(f"{stream.in_hand} questions to this agent")
        if self._in_hand >= _IN_HAND:
            raise TooManyQuestions(f"{self._in_hand} questions to agents")
        self._in_hand += 1
        stream.in_hand += 1
        try:
            async with asyncio.timeout(self._seconds), stream.turn:
                return await self._exchange(stream, query)
        finally:
            stream.in_hand -= 1
            self._in_hand -= 1

    async def _exchange(self, stream: AgentStream, query: socket_pb2.SocketQuery) -> socket_pb2.SocketAnswer:
        if not stream.open:
            raise NoAnswer("the connection broke")
        query.query_id = next(self._ids)
        stream.asked, stream.answered = query, asyncio.get_running_loop().create_future()
        stream.answers.ask(query)
        try:
            return await stream.answered
        finally:
            stream.asked = stream.answered = None

    def take(self, stream: AgentStream, answer: socket_pb2.SocketAnswer) -> None:
        """Takes in what an agent answers. What nobody waits for is dropped, and counted."""
        asked, answered = stream.asked, stream.answered
        if asked is None or answered is None or answered.done() or answer.query_id != asked.query_id:
            self._counters.socket_answers_dropped += 1
            return
        try:
            check_socket_answer(answer, asked)
        except Invalid as error:
            stream.fail(f"its answer breaks a rule: {error}")
        else:
            answered.set_result(answer)
