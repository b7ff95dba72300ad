"""Follows CLOSE_WAIT sockets from tick to tick: since when, how much they leave unread, and who is at the other end.

A socket is known by its cookie. One that was not there in the last tick is as old as this one; for the sockets that
were there before the agent was, or before a gap, the kernel knows when it last heard of the peer (INET_DIAG_INFO).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import accumulate, compress, repeat
from operator import not_
from typing import Final, NamedTuple

from loiter.limits import MAX_PEERS, STUCK_AFTER_SECONDS
from loiter_agent.inet_diag import TCP_CLOSE_WAIT, Chunk
from loiter_agent.places import UNKNOWN, Listener, address_text, peer_of
from loiter_agent.sample import AcceptQueue, Ages, CloseWaitSockets, Peer

_CLOSE_WAIT: Final = bytes(state == TCP_CLOSE_WAIT for state in range(256))

# What the receive queue of a socket says. The kernel counts an unread FIN as one byte.
_EOF_READ, _FIN_UNREAD, _FAREWELL_UNREAD, _DATA_UNREAD, _SENDING = range(5)
# What a TLS peer sends when it hangs up, FIN included or not: the record of a close_notify alert is 24 bytes in TLS 1.3
# (RFC 8446), 23 to 69 with the ciphers of TLS 1.2 (RFC 5246); before it, HTTP/2 sends a GOAWAY of 17 (RFC 9113).
_FAREWELLS: Final = frozenset({23, 24, 31, 53, 69, 63, 64})
_KINDS: Final[Mapping[int, int]] = {0: _EOF_READ, 1: _FIN_UNREAD} | {
    unread + 1: _FAREWELL_UNREAD for unread in _FAREWELLS
}
_LEAST_SETTLED_SECONDS: Final = 3.0
# A socket on which the program has sent something within so many intervals is in use: its peer has closed its own side
# only, and still reads (a half-closed connection, section 3.6 of RFC 9293).
_SENDING_INTERVALS: Final = 1.2
# It is asked about in namespaces with no more CLOSE_WAIT sockets than these: it takes a dump of them in each tick.
_ASKED_ABOUT: Final = 1_000
_GROWTH_SECONDS: Final = 600.0
_LEAST_GROWTH: Final = 4
# Of the pace at which settled sockets go where none gets older than the oldest.
_TURNOVER: Final = 0.5
# What was observed counts this much less with every tick that came after it.
_DECAY: Final = 0.9
# With a tick every interval, a socket seen in three of them is two intervals old, less what ticks are late by.
_SETTLED_INTERVALS: Final = 1.6


class Origin(NamedTuple):
    """What does not change about a CLOSE_WAIT socket. `since` is on the clock that `finish` is given.

    `address` and `port` are the peer's, `port` of an opened connection only: those of clients are many. Where `since`
    is not `known`, the socket may have been in CLOSE_WAIT for longer.
    """

    namespace: int
    since: float
    family: int
    address: bytes
    port: int
    accepted: bool
    known: bool = True


class _NewSocket(NamedTuple):
    namespace: int
    family: int
    connection: bytes


# Where sockets came from, what they leave unread, whether they wait to be accepted, and how many there are.
_Row = tuple[Origin, int, bool, int]


class _Watched(NamedTuple):
    """The settled sockets of a holder, and how many of them went in how many socket-seconds, lately."""

    settled: int
    gone: float = 0.0
    exposure: float = 0.0


class CloseWaits:
    """Keeps since when sockets have been in CLOSE_WAIT. A tick is `begin`, `feed` for each chunk, `finish`."""

    def __init__(self, interval: float) -> None:
        """Takes the time between two ticks in seconds."""
        self.set_interval(interval)
        self._ticked: float | None = None
        self._namespaces: set[int] = set()
        self._origins: list[Origin] = []
        self._origin_of: dict[int, int] = {}  # cookie → number of its origin
        self._connection_of: dict[int, bytes] = {}  # of sockets that nobody has accepted
        self._counts_before: Counter[int] = Counter()
        self._watched: dict[int, _Watched] = {}
        self.to_ask_about: set[int] = set()  # namespaces with sockets that may still be in use
        self.begin()

    def set_interval(self, interval: float) -> None:
        """Changes the time between two ticks, in seconds."""
        self._interval = interval
        self._settled_after = max(_LEAST_SETTLED_SECONDS, _SETTLED_INTERVALS * interval)
        self._longest_gap = 2.5 * interval

    def pause(self) -> None:
        """Leaves out a tick. The sockets that stay keep their age; how they come and go is learnt anew.

        Since when others have been in CLOSE_WAIT is for the kernel to say in the next tick, as in the first one.
        """
        self._ticked = None
        self._counts_before.clear()
        self._watched.clear()
        self.to_ask_about = set()

    def begin(self) -> None:
        """Starts a tick, or starts one over."""
        self._cookies: list[int] = []
        self._inodes: array[int] = array("Q")
        self._kinds: array[int] = array("B")
        self._new: dict[int, _NewSocket] = {}

    def feed(self, namespace: int, offset: int, chunk: Chunk, states: bytes) -> None:
        """Takes in the CLOSE_WAIT sockets of a chunk. `offset` is added to cookies: see Owners.feed."""
        chosen = states.translate(_CLOSE_WAIT)
        cookies = list(compress(chunk.cookies(), chosen))
        if offset:
            cookies = [cookie + offset for cookie in cookies]
        self._cookies += cookies
        self._inodes.extend(compress(chunk.inodes(), chosen))
        self._kinds.extend(map(_KINDS.get, compress(chunk.receive_queues(), chosen), repeat(_DATA_UNREAD)))
        if not all(map(self._origin_of.__contains__, cookies)):
            for cookie, index in zip(cookies, compress(range(chunk.count), chosen), strict=True):
                if cookie not in self._origin_of:
                    self._new[cookie] = _NewSocket(namespace, chunk.family(index), chunk.connection(index))

    def of_unknown_age(self, now: float) -> set[int]:
        """The namespaces with sockets that may have been in CLOSE_WAIT long before this tick."""
        found = {new.namespace for new in self._new.values()}
        gap = self._ticked is None or now - self._ticked > self._longest_gap
        return found if gap else found - self._namespaces

    def finish(
        self,
        now: float,
        namespaces: Collection[int],
        ages: Mapping[int, float],
        accepted: Callable[[int, bytes], bool],
        holders_of: Callable[[Iterable[int]], list[int]],
        listener_of: Callable[[int, bytes], Listener | None],
        sent: Mapping[int, float] | None = None,
    ) -> dict[int, CloseWaitSockets]:
        """Ends a tick: tells what each holder has, UNKNOWN standing for what nobody could be charged with.

        Args:
            now: Seconds on a clock that never steps.
            namespaces: Those that were read in this tick.
            ages: Seconds by cookie, as far as asked for.
            accepted: Tells whether a connection of a namespace was accepted.
            holders_of: Finds the holders of inodes.
            listener_of: Finds the listener of a connection in a namespace.
            sent: Seconds since the program last sent something, by cookie, as far as asked for.
        """
        self._keep_origins(now, ages, self.of_unknown_age(now), accepted)
        before, self._ticked, self._namespaces = self._ticked, round(now, 1), set(namespaces)
        self._find_sending(now, sent or {})
        holders = holders_of(self._inodes)
        queues = self._charge_listeners(holders, holders_of, listener_of)
        unaccepted = map(not_, self._inodes)
        counts = Counter(
            zip(holders, map(self._origin_of.__getitem__, self._cookies), self._kinds, unaccepted, strict=True)
        )
        by_holder: dict[int, list[_Row]] = {}
        for (holder, number, kind, waits), count in counts.items():
            by_holder.setdefault(holder, []).append((self._origins[number], kind, waits, count))
        self._watched = {holder: self._watch(now, rows, before, holder) for holder, rows in by_holder.items()}
        details = {
            holder: self._detail(now, rows, before, holder, queues.get(holder)) for holder, rows in by_holder.items()
        }
        self._counts_before = Counter({holder: detail.count for holder, detail in details.items()})
        self.to_ask_about = self._doubtful(now, [row for rows in by_holder.values() for row in rows])
        self.begin()
        return details

    def _keep_origins(
        self,
        now: float,
        ages: Mapping[int, float],
        not_watched: Collection[int],
        accepted: Callable[[int, bytes], bool],
    ) -> None:
        """Makes the map hold the sockets of this tick and no others."""
        numbers = {origin: number for number, origin in enumerate(self._origins)}
        for cookie, new in self._new.items():
            address, port = peer_of(new.connection)
            is_accepted = accepted(new.namespace, new.connection)
            since = round(now - ages.get(cookie, 0.0), 1)
            known = cookie in ages or new.namespace not in not_watched
            origin = Origin(new.namespace, since, new.family, address, 0 if is_accepted else port, is_accepted, known)
            if origin not in numbers:
                numbers[origin] = len(self._origins)
                self._origins.append(origin)
            self._origin_of[cookie] = numbers[origin]
            self._connection_of[cookie] = new.connection
        if len(self._origin_of) != len(self._cookies):
            self._origin_of = {cookie: self._origin_of[cookie] for cookie in self._cookies}
            used = sorted(set(self._origin_of.values()))
            if 2 * len(used) < len(self._origins):
                moved = {number: index for index, number in enumerate(used)}
                self._origins = [self._origins[number] for number in used]
                self._origin_of = {cookie: moved[number] for cookie, number in self._origin_of.items()}

    def _charge_listeners(
        self,
        holders: list[int],
        holders_of: Callable[[Iterable[int]], list[int]],
        listener_of: Callable[[int, bytes], Listener | None],
    ) -> dict[int, AcceptQueue]:
        """Charges sockets that nobody accepted to those who should, and returns how full their queues are."""
        waiting: dict[int, bytes] = {}
        listeners: dict[int, Listener] = {}  # by the position of the socket
        for position, (cookie, inode) in enumerate(zip(self._cookies, self._inodes, strict=True)):
            if inode:
                continue
            holders[position] = UNKNOWN
            if cookie in self._connection_of:
                waiting[cookie] = self._connection_of[cookie]
                listener = listener_of(self._origins[self._origin_of[cookie]].namespace, waiting[cookie])
                if listener is not None:
                    listeners[position] = listener
        self._connection_of = waiting
        queues: dict[int, AcceptQueue] = {}
        found = holders_of(listener.inode for listener in listeners.values())
        for (position, listener), holder in zip(listeners.items(), found, strict=True):
            holders[position] = holder
            if holder not in queues or listener.depth > queues[holder].depth:
                queues[holder] = AcceptQueue(listener.depth, listener.limit or None)
        return queues

    def _find_sending(self, now: float, sent: Mapping[int, float]) -> None:
        """Marks the sockets on which the program has sent something since its peer closed, and just now."""
        recent = _SENDING_INTERVALS * self._interval
        if not any(seconds < recent for seconds in sent.values()):
            return
        for position, cookie in enumerate(self._cookies):
            seconds = sent.get(cookie, recent)
            if seconds < recent and seconds < now - self._origins[self._origin_of[cookie]].since:
                self._kinds[position] = _SENDING

    def _doubtful(self, now: float, rows: Iterable[_Row]) -> set[int]:
        """The namespaces with sockets that were read to the end and stay, where they are few enough to ask about."""
        counts: Counter[int] = Counter()
        found = set()
        for origin, kind, _, count in rows:
            counts[origin.namespace] += count
            if kind == _SENDING or (kind == _EOF_READ and now - origin.since + self._interval >= self._settled_after):
                found.add(origin.namespace)
        return {namespace for namespace in found if counts[namespace] <= _ASKED_ABOUT}

    def _is_settled(self, row: _Row, now: float) -> bool:
        origin, kind, _, _ = row
        return kind != _SENDING and now - origin.since >= self._settled_after

    def _watch(self, now: float, rows: Iterable[_Row], before: float | None, holder: int) -> _Watched:
        """Adds to what is known of how the settled sockets of a holder go."""
        settled = sum(row[3] for row in rows if self._is_settled(row, now))
        last = self._watched.get(holder)
        if last is None or before is None:
            return _Watched(settled)
        still_there = sum(row[3] for row in rows if self._is_settled(row, before))
        gone = _DECAY * last.gone + max(0, last.settled - still_there)
        return _Watched(settled, gone, _DECAY * last.exposure + last.settled * (now - before))

    def _turns_over(self, holder: int, oldest: float) -> bool:
        """Tells whether settled sockets go at half the pace, at least, at which they would if none ever got older.

        A leak closes none. Of a population that a slow program closes in the end, in each second the part goes that
        has reached the greatest age.
        """
        watched = self._watched[holder]
        if watched.gone < 1 or watched.exposure <= 0:
            return False
        # An age is short by up to an interval: it counts from the tick that saw the socket first.
        return watched.gone / watched.exposure * (oldest + self._interval - self._settled_after) >= _TURNOVER

    def _detail(
        self,
        now: float,
        rows: list[_Row],
        before: float | None,
        holder: int,
        queue: AcceptQueue | None,
    ) -> CloseWaitSockets:
        rows.sort(key=lambda row: row[0].since, reverse=True)
        counted_before = self._counts_before[holder]
        settled = [row for row in rows if self._is_settled(row, now)]
        survivors = sum(count for origin, _, _, count in rows if before is not None and origin.since <= before)
        ages = [(max(0.0, now - origin.since), count) for origin, _, _, count in rows]
        # An age that is a lower bound tells enough once that is over a minute.
        unsure = sum(
            count for origin, _, _, count in rows if not origin.known and now - origin.since <= STUCK_AFTER_SECONDS
        )
        kinds: Counter[int] = Counter()
        for origin, kind, waits, count in settled:
            # A client's goodbye is data to a server that expects a request.
            farewell = kind == _FAREWELL_UNREAD and origin.accepted
            kinds[-1 if waits else _DATA_UNREAD if farewell else kind] += count
        return CloseWaitSockets(
            count=sum(count for *_, count in rows),
            settled=kinds.total(),
            survived=min(1.0, survivors / counted_before) if counted_before else None,
            eof_read=kinds[_EOF_READ],
            fin_unread=kinds[_FIN_UNREAD],
            farewell_unread=kinds[_FAREWELL_UNREAD],
            data_unread=kinds[_DATA_UNREAD],
            never_accepted=kinds[-1],
            client_side=sum(count for origin, _, _, count in settled if not origin.accepted),
            stuck=None if unsure else sum(count for age, count in ages if age > STUCK_AFTER_SECONDS),
            ages=None if unsure else ages_of(ages),
            peers=tuple(_peers(rows)),
            accept_queue=queue,
            growth_per_second=growth_of(
                [(now - origin.since, count) for origin, _, waits, count in rows if not waits and origin.known]
            ),
            unaccepted=sum(count for _, _, waits, count in rows if waits),
            turns_over=self._turns_over(holder, max(age for age, _ in ages)),
            of_unknown_age=unsure,
        )


def ages_of(ages: Iterable[tuple[float, int]]) -> Ages:
    """The quantiles of (age, how many sockets), by the nearest rank."""
    ordered = sorted(ages)
    ranks = list(accumulate(count for _, count in ordered))

    def quantile(share: float) -> float:
        return round(ordered[bisect_left(ranks, share * ranks[-1])][0], 3)

    return Ages(quantile(0.5), quantile(0.99), quantile(1.0))


def growth_of(ages: Iterable[tuple[float, int]]) -> float | None:
    """How many sockets a second come and stay, over the last ten minutes or since the first came.

    None where less than a minute is known of, or where there are not about as many old ones as young ones: those that
    came at once do not grow, and of those that come and go none gets old.
    """
    known = list(ages)
    seconds = min(max((age for age, _ in known), default=0.0), _GROWTH_SECONDS)
    if seconds < STUCK_AFTER_SECONDS:
        return None
    young = sum(count for age, count in known if age < seconds / 2)
    old = sum(count for age, count in known if seconds / 2 <= age <= seconds)
    return (young + old) / seconds if young <= 2 * old and old <= 2 * young and young + old >= _LEAST_GROWTH else None


def _peers(rows: Iterable[_Row]) -> Iterator[Peer]:
    counts: Counter[tuple[str, int | None]] = Counter()
    for origin, _, _, count in rows:
        counts[address_text(origin.family, origin.address), None if origin.accepted else origin.port] += count
    for (address, port), count in counts.most_common(MAX_PEERS):
        yield Peer(address, port, count)
