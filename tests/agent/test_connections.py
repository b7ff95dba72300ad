"""Connections of the last tick, found by their ports."""

from __future__ import annotations

from loiter_agent.connections import Connections
from loiter_agent.inet_diag import TCP_ESTABLISHED, ports_of
from support.netlink_messages import chunks, connection, full_socket


def fed(*namespaces: int) -> Connections:
    """Ten connections in each namespace, whose places are counted up."""
    connections = Connections()
    for namespace in namespaces:
        for chunk in chunks(*(full_socket(TCP_ESTABLISHED, port, remote=("10.0.0.2", port)) for port in range(1, 11))):
            connections.add(namespace, chunk)
    connections.settle(range(100, 100 + 10 * len(namespaces)))
    return connections


def wanted(namespace: int, port: int) -> tuple[int, bytes]:
    return namespace, connection(remote=("10.0.0.9", port))


def test_sockets_are_found_at_their_places_by_namespace_and_ports() -> None:
    """In whatever order they came; addresses are not looked at."""
    ports = {port: ports_of(connection(remote=("10.0.0.9", port))) for port in (3, 10)}
    found = fed(7, 5).find([wanted(7, 3), wanted(5, 3), wanted(5, 10)])
    assert found == {(7, ports[3]): {102}, (5, ports[3]): {112}, (5, ports[10]): {119}}


def test_what_was_not_there_is_not_found() -> None:
    """Another port, the ports the other way round, a namespace that was not read, and nothing at all."""
    turned = (7, connection(("127.0.0.1", 3), ("10.0.0.2", 8080)))
    assert fed(7).find([wanted(7, 99), wanted(5, 3), turned]) == {}
    assert fed(7).find([]) == {}
    assert Connections().find([wanted(7, 3)]) == {}


def test_all_places_with_the_same_ports_are_found() -> None:
    """Two clients may have one port at different addresses."""
    connections = Connections()
    for chunk in chunks(*(full_socket(TCP_ESTABLISHED, n, remote=(f"10.0.0.{n}", 40_000)) for n in (1, 2, 3))):
        connections.add(7, chunk)
    connections.settle([16, 32, 16])
    assert list(connections.find([wanted(7, 40_000)]).values()) == [{16, 32}]
