"""Sockets of this process, as the sampler lists them between two samples: by sock_diag, and by psutil."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from loiter_agent.collectors.processes import ProcessScanner
from loiter_agent.collectors.tcp_psutil import PsutilTcpCollector
from loiter_agent.identity import Identities
from loiter_agent.inet_diag import TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN
from loiter_agent.names import Names
from loiter_agent.procfs import Procfs
from loiter_agent.sampler import Bounds, Sampler
from loiter_agent.socket_rows import GaveWay, Listing, NothingListed, SocketRow, Wanted
from loiter_agent.time_waits import TIME_WAIT_SECONDS

OWN = os.getpid()
NO_PROCESS = 4_194_304


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    """A sampler that has taken one sample."""
    sampler = Sampler(Procfs(), Bounds(), trace_closes=False)
    sampler.sample()
    yield sampler
    sampler.close()


def never() -> bool:
    """No tick is due."""
    return False


def connected(stack: ExitStack) -> tuple[str, str]:
    """Opens a connection, of which one end has closed and one has seven bytes to read: the ports of the two."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    server, _ = listener.accept()
    stack.enter_context(server)
    client.sendall(b"unread.")
    client.shutdown(socket.SHUT_WR)
    return str(listener.getsockname()[1]), str(client.getsockname()[1])


def found(listing: Listing, state: int, port: str) -> SocketRow:
    """The socket in a state that has a local port."""
    (row,) = [row for row in listing.sockets if (row.state, row.local) == (state, f"127.0.0.1:{port}")]
    return row


def test_a_socket_that_came_after_the_last_sample_has_its_owner(sampler: Sampler) -> None:
    """With its queues, and for how long it has been so; the process is asked about, or it is found."""
    with ExitStack() as stack:
        here, there = connected(stack)
        listing = sampler.list_sockets(Wanted(1_000, pid=OWN), never)
        row = found(listing, TCP_CLOSE_WAIT, here)
        assert (row.peer, row.receive_queue, row.send_queue, row.pid) == (f"127.0.0.1:{there}", 8, 0, OWN)
        assert row.age is not None
        assert row.idle is not None
        assert max(row.age, row.idle) < 30
        assert listing.unattributed == 0
        assert TCP_LISTEN not in {row.state for row in listing.sockets}
        listeners = sampler.list_sockets(Wanted(1_000, 1 << TCP_LISTEN, named=True), never)
        row = found(listeners, TCP_LISTEN, here)
        assert (row.pid, row.peer, row.age, row.idle) == (OWN, "0.0.0.0:*", None, None)


def test_the_idle_time_of_a_connection_is_asked_for(sampler: Sampler) -> None:
    """One by one, of those that are shown."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        wanted = Wanted(1_000, 1 << TCP_ESTABLISHED, pid=OWN, named=True)
        row = found(sampler.list_sockets(wanted, never), TCP_ESTABLISHED, str(client.getsockname()[1]))
        assert row.idle is not None
        assert 0 <= row.idle < 30
        assert row.age is None


def test_a_listing_that_gives_way_leaves_no_trace(sampler: Sampler) -> None:
    """The next sample is as good as ever, and so is the next listing."""
    asked = 0

    def due() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    with ExitStack() as stack:
        here, _ = connected(stack)
        with pytest.raises(GaveWay):
            sampler.list_sockets(Wanted(1_000), due)
        sample = sampler.sample()
        assert all(status.error is None for status in sample.collectors)
        assert any(row.pid == OWN and row.close_wait for row in sample.processes)
        assert found(sampler.list_sockets(Wanted(1_000, pid=OWN), never), TCP_CLOSE_WAIT, here).pid == OWN


def test_a_process_that_is_not_there_has_not_no_sockets(sampler: Sampler) -> None:
    """It is said that it is not there."""
    with pytest.raises(NothingListed, match=f"there is no process {NO_PROCESS}"):
        sampler.list_sockets(Wanted(10, pid=NO_PROCESS), never)


def test_psutil_lists_what_it_knows() -> None:
    """Neither queues nor ages: they are unknown, not 0."""
    procfs = Procfs()
    scan = ProcessScanner(procfs).collect()
    names = Names(Identities(procfs))
    names.begin(scan)
    collector = PsutilTcpCollector(procfs)
    with ExitStack() as stack:
        here, there = connected(stack)
        listing = collector.list_sockets(scan, names, Wanted(1_000, pid=OWN), never)
        row = found(listing, TCP_CLOSE_WAIT, here)
        assert (row.peer, row.pid, row.namespace) == (
            f"127.0.0.1:{there}",
            OWN,
            str(os.stat("/proc/self/ns/net").st_ino),
        )
        assert (row.receive_queue, row.send_queue, row.age, row.idle) == (None, None, None, None)
        one = collector.list_sockets(scan, names, Wanted(1, pid=OWN), never)
        assert ([row.state for row in one.sockets], one.matching) == ([TCP_CLOSE_WAIT], listing.matching)
    with pytest.raises(NothingListed, match="there is no process"):
        collector.list_sockets(scan, names, Wanted(1, pid=NO_PROCESS), never)


def test_time_wait_sockets_are_not_older_than_they_get(sampler: Sampler) -> None:
    """By the time that they have left; nobody holds them."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    port = client.getsockname()[1]
    client.close()
    server.close()
    listener.close()
    listing = sampler.list_sockets(Wanted(1_000, 1 << 6, named=True), never)
    ages = [row.age for row in listing.sockets if row.age is not None]
    assert len(ages) == len(listing.sockets) > 0
    assert ages == sorted(ages, reverse=True)
    assert all(0 <= age <= TIME_WAIT_SECONDS for age in ages)
    assert {row.pid for row in listing.sockets} == {None}
    assert listing.matching > 1_000 or f"127.0.0.1:{port}" in {row.local for row in listing.sockets}
