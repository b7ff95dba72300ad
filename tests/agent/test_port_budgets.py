"""Who uses which ephemeral ports: a budget for each namespace, source and destination."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Mapping
from dataclasses import replace

import pytest

from loiter.limits import MAX_PORT_BUDGETS
from loiter_agent.inet_diag import TCP_CLOSE_WAIT, TCP_ESTABLISHED
from loiter_agent.namespace_files import NamespaceSettings
from loiter_agent.places import ROLE_ACCEPTED, ROLE_OPENED, Place, place_of
from loiter_agent.port_budgets import PortBudgets
from loiter_agent.sample import PortBudget, ProcessKey, TimeWaitOwner
from loiter_agent.time_waits import UNATTRIBUTED, Group, WaitingSockets
from support.netlink_messages import connection

RULES = NamespaceSettings((20_000, 20_999), 0, tw_reuse=0, tw_reuse_delay_ms=None, max_tw_buckets=None)
LOADER, OTHER = ProcessKey(10, 1), ProcessKey(20, 2)
PROCESSES = {0: LOADER, 1: OTHER}


def opened(
    holder: int = 0, remote: str = "10.0.0.9", port: int = 443, local: str = "10.0.0.1", namespace: int = 1
) -> Place:
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    return place_of(namespace, holder, family, connection((local, 20_001), (remote, port)), accepted=False)


def waiting(place: Place, owner: ProcessKey | None, *timers: int, fin_wait2: int = 0) -> dict[Group, WaitingSockets]:
    known = TimeWaitOwner(owner, "exact") if owner else UNATTRIBUTED
    sockets = WaitingSockets(array("I", timers), array("I", [30_000] * fin_wait2))
    return {Group(place._replace(holder=0), known): sockets}


def update(
    budgets: PortBudgets,
    now: float,
    places: Mapping[Place, int] | None = None,
    closed: Mapping[Group, WaitingSockets] | None = None,
    rules: Mapping[int, NamespaceSettings | None] | None = None,
) -> tuple[PortBudget, ...]:
    live = {place: {TCP_ESTABLISHED: count} for place, count in (places or {}).items()}
    return budgets.update(now, live, closed or {}, rules or {1: RULES}, PROCESSES.get)


def test_live_and_closed_connections_share_a_budget() -> None:
    """In TIME_WAIT, in FIN_WAIT2, and in any other state, CLOSE_WAIT included."""
    one = opened()
    (budget,) = PortBudgets().update(
        100.0,
        {one: {TCP_ESTABLISHED: 30, TCP_CLOSE_WAIT: 5}},
        waiting(one, LOADER, *[10_000] * 60, fin_wait2=5),
        {1: RULES},
        PROCESSES.get,
    )
    assert budget == PortBudget(
        namespace=1,
        source="10.0.0.1",
        destination="10.0.0.9:443",
        used=100,
        available=1_000,
        time_wait=60,
        reusable=0,
        connects_per_second=None,
        exhausting_connects_per_second=1_000 / 60,
        exhausted_in_seconds=None,
        owner=LOADER,
    )


def test_reserved_ports_are_not_to_be_had() -> None:
    """ip_local_reserved_ports."""
    (budget,) = update(PortBudgets(), 0.0, {opened(): 1}, rules={1: replace(RULES, reserved_ports=900)})
    assert budget.available == 100


@pytest.mark.parametrize("rules", [None, replace(RULES, port_range=None), replace(RULES, reserved_ports=None)])
def test_settings_that_can_not_be_read_leave_the_budget_unknown(rules: NamespaceSettings | None) -> None:
    """What is used is known."""
    (budget,) = update(PortBudgets(), 0.0, {opened(): 7}, rules={1: rules})
    assert (budget.used, budget.available, budget.exhausting_connects_per_second) == (7, None, None)


def test_each_namespace_source_and_destination_has_its_own() -> None:
    """A local port can be used towards each of them."""
    places = [
        opened(),
        opened(namespace=2),
        opened(local="10.0.0.2"),
        opened(remote="10.0.0.8"),
        opened(port=80),
        opened(local="2001:db8::1", remote="2001:db8::9"),
    ]
    rules = {1: RULES, 2: replace(RULES, port_range=(30_000, 30_099))}
    found = update(PortBudgets(), 0.0, dict.fromkeys(places, 10), rules=rules)
    assert {(one.namespace, one.source, one.destination, one.available) for one in found} == {
        (1, "10.0.0.1", "10.0.0.9:443", 1_000),
        (2, "10.0.0.1", "10.0.0.9:443", 100),
        (1, "10.0.0.2", "10.0.0.9:443", 1_000),
        (1, "10.0.0.1", "10.0.0.8:443", 1_000),
        (1, "10.0.0.1", "10.0.0.9:80", 1_000),
        (1, "2001:db8::1", "[2001:db8::9]:443", 1_000),
    }
    assert all(one.used == 10 for one in found)


def test_an_ipv4_connection_of_an_ipv6_socket_takes_a_port_of_ipv4() -> None:
    """The kernel does not let both have the same one."""
    mapped = opened(local="::ffff:10.0.0.1", remote="::ffff:10.0.0.9")
    (budget,) = update(PortBudgets(), 0.0, {opened(0): 10, mapped._replace(holder=1): 5})
    assert (budget.used, budget.source, budget.destination) == (15, "10.0.0.1", "10.0.0.9:443")


def test_accepted_connections_take_no_ephemeral_port() -> None:
    """Nor do those that are not told apart by their destination."""
    accepted = place_of(1, 0, socket.AF_INET, connection(), accepted=True)
    assert accepted.role == ROLE_ACCEPTED
    folded = Place(1, 0, ROLE_OPENED, socket.AF_INET)
    assert update(PortBudgets(), 0.0, {accepted: 50, folded: 50}) == ()


def test_growth_is_told_from_the_second_tick_on() -> None:
    """20 more connections in ten seconds, and 30 that closed in that time; a destination that is new grew from none."""
    budgets = PortBudgets()
    one, new = opened(), opened(port=80)
    update(budgets, 100.0, {one: 10})
    first, second = update(budgets, 110.0, {one: 30, new: 10}, waiting(one, LOADER, *[55_000] * 30))
    assert (first.connects_per_second, second.connects_per_second) == (3.0 + 2.0, 1.0)
    assert first.exhausted_in_seconds is not None


def test_a_clock_that_stands_still_tells_no_growth() -> None:
    """Rather unknown than endless."""
    budgets = PortBudgets()
    update(budgets, 100.0, {opened(): 10})
    assert update(budgets, 100.0, {opened(): 20})[0].connects_per_second is None


def test_the_heaviest_user_is_named_where_it_is_the_most() -> None:
    """More than half of the ports are its own, those in TIME_WAIT included; else nobody is."""
    one = opened(0)
    two = opened(1)
    assert update(PortBudgets(), 0.0, {one: 4, two: 6})[0].owner == OTHER
    assert update(PortBudgets(), 0.0, {one: 5, two: 5})[0].owner is None
    assert update(PortBudgets(), 0.0, {one: 4, two: 6}, waiting(one, LOADER, 1, 2, 3))[0].owner == LOADER
    assert update(PortBudgets(), 0.0, {one: 4}, waiting(one, None, *range(10)))[0].owner is None


class TestReuse:
    """net.ipv4.tcp_tw_reuse is 0, 1, or 2 for loopback."""

    @pytest.mark.parametrize(
        ("reuse", "local", "remote", "reusable"),
        [
            (0, "127.0.0.1", "127.0.0.1", 0),
            (1, "10.0.0.1", "10.0.0.9", 2),
            (2, "10.0.0.1", "10.0.0.9", 0),
            (2, "127.0.0.1", "127.0.0.2", 2),
            (2, "10.0.0.1", "127.0.0.1", 2),
            (2, "::1", "::1", 2),
            (2, "2001:db8::1", "2001:db8::2", 0),
            (2, "::ffff:127.0.0.1", "::ffff:127.0.0.1", 2),
            (None, "127.0.0.1", "127.0.0.1", 0),
        ],
    )
    def test_loopback_is_told_apart(self, reuse: int | None, local: str, remote: str, reusable: int) -> None:
        """tcp_twsk_unique() in net/ipv4/tcp_ipv4.c."""
        place = opened(local=local, remote=remote)
        closed = waiting(place, None, 59_900, 58_000, 1)
        (budget,) = update(PortBudgets(), 0.0, closed=closed, rules={1: replace(RULES, tw_reuse=reuse)})
        assert (budget.used, budget.reusable) == (3, reusable)
        assert (budget.exhausting_connects_per_second is None) == (reusable > 0)

    def test_the_delay_is_that_of_the_namespace(self) -> None:
        """tcp_tw_reuse_delay; a second before Linux 6.14, which has no such setting."""
        closed = waiting(opened(), None, 59_900, 58_000, 50_000)
        for delay, reusable in ((None, 2), (1_000, 2), (5_000, 1), (0, 3)):
            rules = {1: replace(RULES, tw_reuse=1, tw_reuse_delay_ms=delay)}
            (budget,) = update(PortBudgets(), 0.0, closed=closed, rules=rules)
            assert budget.reusable == reusable


class TestManyDestinations:
    def test_the_fullest_come_first_whatever_the_range(self) -> None:
        """90 ports of 100 are more than 600 of 1,000: a namespace with a short range is not lost among busy ones."""
        short = {1: RULES, 2: replace(RULES, port_range=(30_000, 30_099))}
        places = {opened(port=1 + number): 600 + number for number in range(60)}
        found = update(PortBudgets(), 0.0, {**places, opened(namespace=2): 90}, rules=short)
        assert (found[0].namespace, found[0].used) == (2, 90)
        assert [one.used for one in found[1:]] == sorted((one.used for one in found[1:]), reverse=True)
        assert found[1].used == 659

    def test_more_than_twenty_are_shown_only_where_they_are_half_used(self) -> None:
        """And never more than the wire allows."""
        quiet = {opened(port=1 + number): 10 for number in range(30)}
        busy = {opened(port=1_000 + number): 500 for number in range(25)}
        assert len(update(PortBudgets(), 0.0, quiet)) == 20
        assert [one.used for one in update(PortBudgets(), 0.0, {**quiet, **busy})] == [500] * 25
        crowd = {opened(port=1_000 + number): 500 for number in range(200)}
        assert len(update(PortBudgets(), 0.0, crowd)) == MAX_PORT_BUDGETS


def test_live_connections_that_come_and_go_by_chance_do_not_grow() -> None:
    """100 of them vary by ten or so; 30 more are more than chance, and count over the time in which they came."""
    budgets = PortBudgets()
    update(budgets, 100.0, {opened(): 100})
    assert update(budgets, 110.0, {opened(): 115})[0].connects_per_second == 0.0
    assert update(budgets, 120.0, {opened(): 130})[0].connects_per_second == pytest.approx(30 / 20)


def test_growth_is_that_of_the_last_minute() -> None:
    """What grew before is not going on."""
    budgets = PortBudgets()
    rates = [update(budgets, 10.0 * tick, {opened(): 20 + min(500, 100 * tick)})[0] for tick in range(14)]
    assert rates[5].connects_per_second == pytest.approx(10.0)
    assert rates[13].connects_per_second == 0.0
