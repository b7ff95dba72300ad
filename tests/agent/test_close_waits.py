"""CLOSE_WAIT sockets from tick to tick: since when, how many stay, what is unread, and who did not accept them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest

from loiter_agent.close_waits import CloseWaits, ages_of, growth_of
from loiter_agent.inet_diag import TCP_CLOSE_WAIT, TCP_ESTABLISHED
from loiter_agent.places import UNKNOWN, Listener
from loiter_agent.sample import AcceptQueue, Ages, CloseWaitSockets, Peer
from support.netlink_messages import End, chunks, full_socket

INTERVAL = 10.0
HOST = 1
SERVER: End = ("10.0.0.1", 8080)
CLIENT: End = ("10.0.0.2", 40_000)


def known_ages(detail: CloseWaitSockets) -> Ages:
    """The ages of sockets of which it is known since when they are in CLOSE_WAIT."""
    assert detail.ages is not None
    return detail.ages


class Sockets:
    """A host's CLOSE_WAIT sockets. Those of inode 100 to 199 are of holder 1, of 200 to 299 of holder 2, and so on."""

    def __init__(self) -> None:
        self.close_waits = CloseWaits(INTERVAL)
        self.listeners: dict[int, Listener] = {}  # by local port
        self.asked: set[int] = set()

    def tick(
        self,
        now: float,
        made: Sequence[bytes],
        ages: Mapping[int, float] | None = None,
        accepted: bool = True,
        namespaces: Iterable[int] = (HOST,),
    ) -> dict[int, CloseWaitSockets]:
        self.close_waits.begin()
        self.feed(made)
        return self.end(now, ages, accepted, namespaces)

    def feed(self, made: Sequence[bytes], namespace: int = HOST, offset: int = 0) -> None:
        for chunk in chunks(*made):
            self.close_waits.feed(namespace, offset, chunk, chunk.states())

    def end(
        self,
        now: float,
        ages: Mapping[int, float] | None = None,
        accepted: bool = True,
        namespaces: Iterable[int] = (HOST,),
    ) -> dict[int, CloseWaitSockets]:
        self.asked = self.close_waits.of_unknown_age(now)
        return self.close_waits.finish(
            now, set(namespaces), ages or {}, lambda *_: accepted, holders_of, lambda _, one: self._listener(one)
        )

    def _listener(self, connection: bytes) -> Listener | None:
        return self.listeners.get(int.from_bytes(connection[:2], "big"))


def holders_of(inodes: Iterable[int]) -> list[int]:
    return [inode // 100 if inode else UNKNOWN for inode in inodes]


def waiting(cookie: int, inode: int = 100, unread: int = 0, local: End = SERVER, remote: End = CLIENT) -> bytes:
    return full_socket(TCP_CLOSE_WAIT, inode, local=local, remote=remote, cookie=cookie, receive_queue=unread)


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


class TestAges:
    def test_at_first_sight_the_kernel_tells_the_age(self, sockets: Sockets) -> None:
        """The agent was started after the sockets, or started again: nothing is taken to be new."""
        found = sockets.tick(1_000.0, [waiting(1), waiting(2), waiting(3)], {1: 300.0, 2: 90.0, 3: 5.0})
        assert sockets.asked == {HOST}
        assert found[1].ages == Ages(90.0, 300.0, 300.0)
        assert (found[1].stuck, found[1].settled, found[1].survived) == (2, 2, None)

    def test_what_comes_later_is_as_old_as_its_first_tick(self, sockets: Sockets) -> None:
        """The kernel is not asked, and what it said first holds."""
        sockets.tick(1_000.0, [waiting(1)], {1: 50.0})
        sockets.tick(1_010.0, [waiting(1), waiting(2)])
        assert sockets.asked == set()
        found = sockets.tick(1_010.5, [waiting(1), waiting(2)])
        assert sockets.asked == set()
        assert found[1].ages == Ages(0.5, 60.5, 60.5)

    def test_nobody_is_asked_about_sockets_that_come_between_two_ticks(self, sockets: Sockets) -> None:
        """Asking would cost a second dump on each tick of a busy host."""
        sockets.tick(1_000.0, [])
        assert sockets.asked == set()
        sockets.tick(1_010.0, [waiting(1)])
        assert sockets.asked == set()

    def test_after_a_gap_the_kernel_is_asked_about_the_new_ones(self, sockets: Sockets) -> None:
        """As of a host that was suspended, or an agent that was stopped."""
        sockets.tick(1_000.0, [waiting(1)], {1: 7.0})
        found = sockets.tick(1_300.0, [waiting(1), waiting(2)], {1: 1.0, 2: 200.0})
        assert sockets.asked == {HOST}
        assert known_ages(found[1]).max == 307.0
        assert known_ages(found[1]).p50 == 200.0
        sockets.tick(1_325.0, [waiting(1), waiting(2), waiting(3)])
        assert sockets.asked == set(), "one tick that was skipped is no gap"

    def test_a_namespace_that_was_not_read_before_is_asked_about(self, sockets: Sockets) -> None:
        """Its sockets are older than the tick in which it was found; those of others are not."""
        sockets.tick(1_000.0, [])
        sockets.close_waits.begin()
        sockets.feed([waiting(1)])
        sockets.feed([waiting(1)], namespace=2, offset=1 << 32)
        found = sockets.end(1_010.0, {(1 << 32) + 1: 80.0}, namespaces=(HOST, 2))
        assert sockets.asked == {2}
        assert (found[1].count, found[1].ages) == (2, Ages(0.0, 80.0, 80.0))
        sockets.close_waits.begin()
        sockets.feed([waiting(2)], namespace=2, offset=1 << 32)
        sockets.end(1_020.0, namespaces=(HOST, 2))
        assert sockets.asked == set()

    def test_an_age_that_the_kernel_does_not_tell_is_unknown_for_a_minute(self, sockets: Sockets) -> None:
        """In a namespace that is read by procfs: from then on it is a lower bound that says enough."""
        for now in (1_000.0, 1_060.0):
            found = sockets.tick(now, [waiting(1)])[1]
            assert (found.ages, found.stuck, found.of_unknown_age) == (None, None, 1)
        found = sockets.tick(1_061.0, [waiting(1)])[1]
        assert (found.ages, found.stuck, found.of_unknown_age) == (Ages(61.0, 61.0, 61.0), 1, 0)

    def test_quantiles_are_those_of_the_nearest_rank(self) -> None:
        """By hand: of 100 sockets the 50th and the 99th; of one, that one."""
        assert ages_of([(float(age), 1) for age in range(1, 101)]) == Ages(50.0, 99.0, 100.0)
        assert ages_of([(5.0, 1)]) == Ages(5.0, 5.0, 5.0)
        assert ages_of([(9.0, 1), (1.0, 99)]) == Ages(1.0, 1.0, 9.0)
        assert ages_of([(9.0, 2), (1.0, 98)]) == Ages(1.0, 9.0, 9.0)
        assert ages_of([(1.0, 1), (2.0, 1)]) == Ages(1.0, 2.0, 2.0)

    def test_growth_is_what_came_and_stays(self) -> None:
        """One a second for 100 s, and for an hour, with one that is older than all others."""
        assert growth_of([(float(age), 1) for age in range(100)]) == pytest.approx(1.0, rel=0.02)
        ages = [(float(age), 1) for age in range(3_600)]
        assert growth_of([*ages, (2_592_000.0, 1)]) == pytest.approx(1.0, rel=0.02)

    @pytest.mark.parametrize(
        "ages",
        [
            pytest.param([], id="none"),
            pytest.param([(100.0, 50)], id="came at once"),
            pytest.param([(55.0, 1), (0.0, 9)], id="too young to tell"),
            pytest.param([(float(age), 10) for age in range(8)], id="come and go"),
            pytest.param([*((float(age), 10) for age in range(8)), (300.0, 1)], id="come and go beside a straggler"),
        ],
    )
    def test_what_does_not_stay_does_not_grow(self, ages: list[tuple[float, int]]) -> None:
        """Arrivals alone are no growth: others may leave."""
        assert growth_of(ages) is None

    def test_those_that_nobody_accepted_take_no_descriptor(self, sockets: Sockets) -> None:
        """However many come."""
        for second in range(0, 121, 10):
            found = sockets.tick(1_000.0 + second, [waiting(n, inode=0) for n in range(second + 1)])
        (detail,) = found.values()
        assert detail.growth_per_second is None
        assert detail.unaccepted == 121

    def test_a_population_that_is_closed_in_the_end_turns_over(self, sockets: Sockets) -> None:
        """Each socket is closed 50 s after it came; a leak beside it closes none."""
        for second in range(0, 301, 10):
            alive = [waiting(n, 100) for n in range(max(0, second - 50), second)]
            found = sockets.tick(1_000.0 + second, alive + [waiting(1_000 + n, 200) for n in range(second)])
            if second >= 80:
                assert (found[1].turns_over, found[2].turns_over) == (True, False), second


class TestSurvival:
    def test_a_leak_survives_and_churn_does_not(self, sockets: Sockets) -> None:
        """The share of the last tick's sockets that are still there."""
        leak = [waiting(cookie, 100) for cookie in range(10)]
        sockets.tick(1_000.0, leak + [waiting(cookie, 200) for cookie in range(100, 110)])
        found = sockets.tick(1_010.0, [*leak, waiting(50, 100), *(waiting(cookie, 200) for cookie in range(108, 118))])
        assert (found[1].survived, found[2].survived) == (1.0, 0.2)
        assert (found[1].count, found[2].count) == (11, 10)

    def test_a_process_without_any_before_has_nothing_to_survive(self, sockets: Sockets) -> None:
        """Not 0."""
        sockets.tick(1_000.0, [waiting(1, 100)])
        assert sockets.tick(1_010.0, [waiting(1, 100), waiting(2, 200)])[2].survived is None

    def test_sockets_that_were_passed_on_are_no_more_than_all(self, sockets: Sockets) -> None:
        """Another process holds them now, and one of its own was there before."""
        sockets.tick(1_000.0, [waiting(1, 100), waiting(2, 100), waiting(3, 200)])
        assert sockets.tick(1_010.0, [waiting(1, 200), waiting(2, 200), waiting(3, 200)])[2].survived == 1.0

    def test_settled_sockets_are_those_of_two_intervals(self, sockets: Sockets) -> None:
        """Less what ticks are late by."""
        sockets.tick(1_000.0, [])
        for now, settled in ((1_010.0, 0), (1_020.0, 0), (1_029.5, 1), (1_071.0, 1)):
            (detail,) = sockets.tick(now, [waiting(1)]).values()
            assert detail.settled == settled
        assert detail.stuck == 1

    def test_a_socket_that_closes_is_forgotten(self, sockets: Sockets) -> None:
        """Its holder, too; and memory does not grow with those that were."""
        for tick in range(50):
            found = sockets.tick(1_000.0 + 10 * tick, [waiting(cookie) for cookie in range(100 * tick, 100 * tick + 9)])
            assert found[1].count == 9
        assert len(sockets.close_waits._origins) < 5
        assert len(sockets.close_waits._origin_of) == 9
        assert sockets.tick(2_000.0, []) == {}

    def test_a_torn_dump_that_is_read_again_counts_once(self, sockets: Sockets) -> None:
        """What was fed before the second beginning does not count."""
        sockets.tick(1_000.0, [waiting(1)])
        sockets.close_waits.begin()
        sockets.feed([waiting(1), waiting(2), waiting(9)])
        sockets.close_waits.begin()
        sockets.feed([waiting(1), waiting(2)])
        found = sockets.end(1_010.0)
        assert (found[1].count, found[1].survived) == (2, 1.0)


class TestClasses:
    @pytest.mark.parametrize(
        ("unread", "client", "server"),
        [
            (0, "eof_read", "eof_read"),
            (1, "fin_unread", "fin_unread"),
            (25, "farewell_unread", "data_unread"),
            (32, "farewell_unread", "data_unread"),
            (2, "data_unread", "data_unread"),
            (26, "data_unread", "data_unread"),
            (5_000, "data_unread", "data_unread"),
        ],
    )
    def test_the_receive_queue_tells_the_class(self, unread: int, client: str, server: str) -> None:
        """A farewell is one of the client side alone: to a server it is data. The FIN counts as one byte."""
        for accepted, expected in ((False, client), (True, server)):
            (detail,) = Sockets().tick(1_000.0, [waiting(1, unread=unread)], {1: 100.0}, accepted).values()
            classes = ("eof_read", "fin_unread", "farewell_unread", "data_unread", "never_accepted")
            assert {name for name in classes if getattr(detail, name)} == {expected}
            assert detail.client_side == (not accepted)

    def test_the_classes_are_of_the_settled_and_add_up(self, sockets: Sockets) -> None:
        """The young ones are counted and no more."""
        made = [waiting(cookie, unread=unread) for cookie, unread in enumerate((0, 0, 1, 25, 99))]
        detail = sockets.tick(1_000.0, [*made, waiting(77)], dict.fromkeys(range(5), 40.0), accepted=False)[1]
        assert (detail.count, detail.settled, detail.client_side) == (6, 5, 5)
        assert (detail.eof_read, detail.fin_unread, detail.farewell_unread, detail.data_unread) == (2, 1, 1, 1)

    def test_other_states_are_passed_over(self, sockets: Sockets) -> None:
        """A chunk holds all of them."""
        made = [full_socket(TCP_ESTABLISHED, 100, cookie=1), waiting(2), full_socket(TCP_ESTABLISHED, 100, cookie=3)]
        assert sockets.tick(1_000.0, made)[1].count == 1


class TestPeers:
    def test_the_most_frequent_come_first(self, sockets: Sockets) -> None:
        """A server's clients have many ports, which are left out; an IPv4 client is one however it is written."""
        made = [waiting(cookie, remote=("10.0.0.2", 40_000 + cookie)) for cookie in range(3)]
        made += [
            waiting(9, local=("::ffff:10.0.0.1", 8080), remote=("::ffff:10.0.0.2", 41_000)),
            waiting(10, local=("2001:db8::1", 8080), remote=("2001:db8::2", 41_000)),
        ]
        assert sockets.tick(1_000.0, made)[1].peers == (Peer("10.0.0.2", None, 4), Peer("2001:db8::2", None, 1))

    def test_servers_are_told_apart_by_port_and_ten_are_enough(self, sockets: Sockets) -> None:
        """Of connections that this host opened."""
        made = [waiting(cookie, remote=("10.0.0.2", 80 + cookie)) for cookie in range(20)]
        peers = sockets.tick(1_000.0, [*made, waiting(99, remote=("10.0.0.2", 85))], accepted=False)[1].peers
        assert peers[0] == Peer("10.0.0.2", 85, 2)
        assert len(peers) == 10


class TestNeverAccepted:
    """Sockets without an inode: they wait in the queue of a listener."""

    def test_they_are_charged_to_who_listens_with_its_queue(self, sockets: Sockets) -> None:
        """Its depth and its backlog; they are a class of their own, whatever they leave unread."""
        sockets.listeners = {8080: Listener(2, bytes(16), 500, depth=3, limit=128)}
        made = [waiting(cookie, 0, unread) for cookie, unread in enumerate((0, 1, 99))]
        for now in (1_000.0, 1_010.0, 1_020.0):
            found = sockets.tick(now, [*made, waiting(7, 500)])
        assert set(found) == {5}
        detail = found[5]
        assert (detail.count, detail.settled, detail.never_accepted, detail.eof_read) == (4, 4, 3, 1)
        assert detail.accept_queue == AcceptQueue(3, 128)

    def test_without_a_listener_nobody_is_charged(self, sockets: Sockets) -> None:
        """UNKNOWN stands for that."""
        found = sockets.tick(1_000.0, [waiting(1, 0)])
        assert set(found) == {UNKNOWN}
        assert found[UNKNOWN].accept_queue is None

    def test_of_several_queues_the_fullest_is_told(self, sockets: Sockets) -> None:
        """Of one process; a backlog that is not known stays unknown."""
        sockets.listeners = {
            8080: Listener(2, bytes(16), 500, depth=3, limit=128),
            8081: Listener(2, bytes(16), 501, depth=9, limit=0),
        }
        made = [waiting(1, 0), waiting(2, 0, local=("10.0.0.1", 8081)), waiting(3, 0)]
        assert sockets.tick(1_000.0, made)[5].accept_queue == AcceptQueue(9, None)

    def test_an_empty_queue_is_an_empty_queue(self, sockets: Sockets) -> None:
        """As where it was emptied while it was read."""
        sockets.listeners = {8080: Listener(2, bytes(16), 500, depth=0, limit=16)}
        assert sockets.tick(1_000.0, [waiting(1, 0)])[5].accept_queue == AcceptQueue(0, 16)

    def test_one_that_is_accepted_after_all_is_no_more_of_them(self, sockets: Sockets) -> None:
        """It keeps its age."""
        sockets.listeners = {8080: Listener(2, bytes(16), 500, depth=1, limit=16)}
        sockets.tick(1_000.0, [waiting(1, 0)], {1: 100.0})
        found = sockets.tick(1_010.0, [waiting(1, 600)])
        assert set(found) == {6}
        assert (found[6].never_accepted, found[6].eof_read, known_ages(found[6]).max) == (0, 1, 110.0)
        assert found[6].accept_queue is None

    def test_holders_are_looked_up_for_all_of_them_at_once(self, sockets: Sockets) -> None:
        """A queue may hold thousands: a look-up of its own for each took as long as all of a tick."""
        calls = []

        def counting(inodes: Iterable[int]) -> list[int]:
            calls.append(1)
            return holders_of(inodes)

        sockets.feed([waiting(cookie, 0) for cookie in range(500)])
        listener = Listener(2, bytes(16), 500, depth=500, limit=512)
        found = sockets.close_waits.finish(1_000.0, {HOST}, {}, lambda *_: True, counting, lambda *_: listener)
        assert found[5].never_accepted == 0, "they are not settled yet"
        assert found[5].count == 500
        assert len(calls) == 2


def test_a_connection_on_which_the_program_still_sends_is_in_use(sockets: Sockets) -> None:
    """Its client has closed its own side only, and reads on. One that sent its last before the end is not."""
    made = [waiting(1), waiting(2, 200)]
    for second in range(0, 61, 10):
        sockets.close_waits.begin()
        sockets.feed(made)
        found = sockets.close_waits.finish(
            1_000.0 + second,
            {HOST},
            {},
            lambda *_: True,
            holders_of,
            lambda *_: None,
            {1: 0.5, 2: second + 5.0},
        )
    assert (found[1].count, found[1].settled) == (1, 0)
    assert (found[2].settled, found[2].eof_read) == (1, 1)
    assert sockets.close_waits.to_ask_about == {HOST}


def test_sockets_are_asked_about_where_they_are_few() -> None:
    """It takes a dump of them in each tick."""
    for count, asked in ((1_000, {HOST}), (1_001, set())):
        one = Sockets()
        for second in (0, 10, 20):
            one.tick(1_000.0 + second, [waiting(cookie) for cookie in range(1, count + 1)])
        assert one.close_waits.to_ask_about == asked
