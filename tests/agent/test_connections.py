"""Connections of the last tick, found by their ends."""

from __future__ import annotations

import pytest

from loiter_agent.connections import Connections
from loiter_agent.inet_diag import TCP_ESTABLISHED
from support.netlink_messages import chunks, connection, full_socket


def fed(*namespaces: int) -> Connections:
    """Ten connections in each namespace, whose places are counted up."""
    connections = Connections()
    for namespace in namespaces:
        for chunk in chunks(*(full_socket(TCP_ESTABLISHED, port, remote=("10.0.0.2", port)) for port in range(1, 11))):
            connections.add(namespace, chunk)
    connections.settle(range(100, 100 + 10 * len(namespaces)))
    return connections


def wanted(namespace: int, port: int, address: str = "10.0.0.2") -> tuple[int, bytes]:
    return namespace, connection(remote=(address, port))


def test_sockets_are_found_at_their_places_by_namespace_and_peer() -> None:
    """In whatever order they came."""
    asked = [wanted(7, 3), wanted(5, 3), wanted(5, 10)]
    assert fed(7, 5).find(asked) == dict(zip(asked, ({102}, {112}, {119}), strict=True))


def test_what_was_not_there_is_not_found() -> None:
    """Another port, another peer, the ports the other way round, a namespace that was not read, and nothing at all."""
    turned = (7, connection(("127.0.0.1", 3), ("10.0.0.2", 8080)))
    assert fed(7).find([wanted(7, 99), wanted(7, 3, "10.0.0.3"), wanted(5, 3), turned]) == {}
    assert fed(7).find([]) == {}
    assert Connections().find([wanted(7, 3)]) == {}


@pytest.mark.parametrize("network", ["10.0.0.", "2001:db8::"])
def test_clients_with_one_port_at_different_addresses_are_told_apart(network: str) -> None:
    """A stranger's connection is no evidence."""
    local = ("::1", 8080) if ":" in network else ("127.0.0.1", 8080)
    connections = Connections()
    peers = [(f"{network}{n}", 40_000) for n in (1, 2, 3)]
    for chunk in chunks(
        *(full_socket(TCP_ESTABLISHED, n, local=local, remote=peer) for n, peer in enumerate(peers, 1))
    ):
        connections.add(7, chunk)
    connections.settle([16, 32, 48])
    asked = (7, connection(local, peers[1]))
    assert connections.find([asked]) == {asked: {32}}
