"""Live sockets on the page: each who looks is held to the rate and in the log, and one reading serves many."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from loiter.v1 import socket_pb2
from loiter_aggregator.fleet.sockets import Sockets
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.socket_queries import SocketQueries
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, store_samples
from support.reports import NOW, sample
from support.web import Served, make_token, serving_page, settings_of

PAGE = {"accept": "text/html"}


class _Answering(SocketQueries):
    """Agents that answer at once, and how often they did."""

    def __init__(self) -> None:
        super().__init__(Counters(0))
        self.answered = 0

    async def ask(self, host_key: int, query: socket_pb2.SocketQuery) -> socket_pb2.SocketAnswer:
        """Answers."""
        del host_key
        self.answered += 1
        one = socket_pb2.Socket(state=socket_pb2.TCP_STATE_CLOSE_WAIT, local="10.0.0.1:80", peer="10.0.0.2:4000")
        return socket_pb2.SocketAnswer(sockets=[one], matching=1, query_id=query.query_id)


def test_each_who_looks_is_in_the_log_and_refused_alone(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The host is asked once for all of them."""
    store_samples(store, "web1", [sample(NOW - 1_000)])
    tokens = {name: make_token(tmp_path, name) for name in ("alice", "bob", "carol", "dave")}
    agents = _Answering()

    async def scenario(served: Served) -> None:
        reading = served.site.state.reading
        # The clock of the rate stands: ten times, and no more.
        served.site.state.reading = replace(reading, sockets=Sockets(reading.fleet, agents, lambda: 0.0))
        # What is fresh stays so.
        served.site.state.answers._monotonic = lambda: 0.0

        async def look(name: str, address: str) -> tuple[int, str]:
            headers = PAGE | {"authorization": f"Bearer {tokens[name]}", "hx-request": "true"}
            answer = await served.browser.get(address, headers=headers)
            return answer.status_code, answer.text

        for address in ("/sockets?host=web1", "/process/ages?host=web1&pid=7"):
            for name in ("alice", "bob", "alice"):
                status, text = await look(name, address)
                assert status == 200
                assert "10.0.0.2:4000" in text or "histogram" in text or "No socket" in text
        assert agents.answered == 2
        for pid in range(10):
            assert (await look("carol", f"/sockets?host=web1&pid={1 + pid}"))[0] == 200
        status, text = await look("carol", "/sockets?host=web1&pid=99")
        assert status == 503
        assert "10 times at once" in text
        assert (await look("dave", "/sockets?host=web1&pid=99"))[0] == 200

    async def serving() -> None:
        async with serving_page(store, clock, settings_of(tmp_path)) as served:
            await scenario(served)

    with caplog.at_level(logging.INFO):
        asyncio.run(asyncio.wait_for(serving(), 30))
    asked = [one.getMessage() for one in caplog.records if "asks for the sockets" in one.getMessage()]
    assert asked[:4] == [
        f"token {name} at 127.0.0.1 asks for the sockets of web1{what}"
        for what in ("", ": process 7, close_wait")
        for name in ("alice", "bob")
    ]
    assert len(asked) == 4 + 10 + 1
