"""Reads TCP sockets from the kernel's own tables, in every network namespace, and puts the parts together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loiter.limits import MAX_TIME_WAIT_GROUPS
from loiter_agent import inet_diag
from loiter_agent.acceptors import Acceptors
from loiter_agent.clock import since_boot
from loiter_agent.close_waits import CloseWaits
from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.inet_diag import ALL_STATES, INET_DIAG_INFO, TCP_CLOSE_WAIT, TCP_LISTEN, TIME_WAIT_STATES, Chunk
from loiter_agent.namespaces import Namespaces, OpenNamespace
from loiter_agent.owners import Charges, Owners
from loiter_agent.places import ROLE_ACCEPTED, ROLE_OPENED, Listeners, Place, destination_text, local_port
from loiter_agent.port_budgets import PortBudgets
from loiter_agent.procfs import Procfs
from loiter_agent.sample import (
    OWNER_SOURCES,
    CloseWaitSockets,
    Namespace,
    PortBudget,
    ProcessKey,
    ProcessSockets,
    TcpCounts,
    TcpSnapshot,
    TcpStates,
    TimeWaitGroup,
    TimeWaitLimits,
    TimeWaitOwner,
)
from loiter_agent.sock_diag import TornDumpError
from loiter_agent.time_waits import TIME_WAIT_SECONDS, Clues, Group, Shares, TimeWaits, Tracer, WaitingSockets
from loiter_agent.unaccepted import Unaccepted

if TYPE_CHECKING:
    from loiter_agent.names import Names
    from loiter_agent.socket_rows import Listing, Wanted

_ATTEMPTS: Final = 3
# From so many TIME_WAIT sockets on, a dump of their own is cheaper: messages of one length are parsed as columns.
_SPLIT_FROM_TIME_WAIT: Final = 2_000
# So many groups of TIME_WAIT sockets are told apart by their other end, the rest by their owner alone.
_TOLD_APART: Final = 70
_WITH_INFO: Final = 1 << (INET_DIAG_INFO - 1)


@dataclass(frozen=True, slots=True)
class _CloseWait:
    """The CLOSE_WAIT sockets charged to a holder, those of them that it never accepted, and what else is known."""

    count: int
    unaccepted: int
    detail: CloseWaitSockets | None = None


class SockDiagTcpCollector:
    """Reads sockets by NETLINK_SOCK_DIAG, and by procfs in the namespaces that may not be entered."""

    name = "tcp"

    def __init__(
        self,
        procfs: Procfs,
        interval: float,
        open_tracer: Callable[[], Tracer | None] = lambda: None,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        """Opens what it needs. Raises OSError where the kernel refuses sock_diag in the agent's own namespace.

        `interval` is the time between two snapshots in seconds, `clock` one that never steps.
        """
        self._clock = clock
        self._namespaces = Namespaces(procfs)
        self._tracer = open_tracer()
        self._owners = Owners(procfs)
        self._listeners = Listeners()
        self._close_waits = CloseWaits(interval)
        self._unaccepted = Unaccepted()
        self._detailed = True
        self._time_waits = TimeWaits()
        self._shares = Shares()
        self._acceptors = Acceptors()
        self._budgets = PortBudgets()
        self._port_ranges: dict[int, tuple[int, int] | None] = {}
        self._read_ids: set[int] = set()
        self._offsets: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._lists_bound_inactive: bool | None = None
        self._overflows: tuple[float, int] | None = None  # when they were read, and how many

    def collect(self, scan: ProcessScan, detailed: bool = True) -> TcpSnapshot:
        """Takes a snapshot. Raises OSError where the kernel refuses or breaks off a dump of its own namespace.

        Without `detailed`, CLOSE_WAIT sockets are charged and nothing more, and those that are new in TIME_WAIT have no
        owner.
        """
        self._detailed = detailed
        opened = self._namespaces.refresh(scan.processes.values())
        self._port_ranges = {one.id: one.settings.port_range if one.settings else None for one in opened}
        self._offsets = {one.id: self._offsets[one.id] for one in opened if one.id in self._offsets}
        now = self._clock()
        torn = False
        for _ in range(_ATTEMPTS):
            torn = self._read(scan, opened)
            if not torn:
                break
        if detailed:
            charges, close_waits, waiting = self._look_into(now, scan, opened)
        else:
            self._forget_last_tick()
            self._listeners.finish(now)
            charges = self._owners.finish()
            close_waits = self._counted_close_waits(charges)
            waiting = self._time_waits.finish(self._no_clues())
        budgets = self._budgets.update(
            now, charges.places, waiting, {one.id: one.settings for one in opened}, self._owners.process
        )
        return TcpSnapshot(
            sampler="sock_diag",
            states=self._states(self._counts(charges), opened),
            by_process=self._by_process(charges, close_waits, waiting, budgets),
            attributed=charges.attributed,
            unattributed=charges.unattributed,
            ownerless=charges.ownerless + self._time_waits.states.total(),
            torn=torn,
            time_wait=_time_wait_groups(waiting),
            time_wait_nobodys=frozenset(
                group.place.namespace
                for group, sockets in waiting.items()
                if sockets.time_wait and group.owner.how == "unattributed" and not group.ended
            ),
            time_wait_limits=self._limits(now, opened[0]),
            ports=budgets,
            namespaces=tuple(
                Namespace(one.id, one.name, one.how if one.id in self._read_ids else None, one.member) for one in opened
            ),
        )

    def count(self) -> TcpCounts:
        """Counts sockets by state, in the namespaces that are read from inside or where nobody talks.

        Raises OSError as `collect` does.
        """
        self._forget_last_tick()
        self._budgets = PortBudgets()
        opened, left_out = self._namespaces.kept_open()
        counts: Counter[int] = Counter()
        torn = False
        for _ in range(_ATTEMPTS):
            counts.clear()
            torn = self._count_into(counts, opened)
            if not torn:
                break
        return TcpCounts("sock_diag", self._states(counts, opened), torn, left_out)

    def list_sockets(self, scan: ProcessScan, names: Names, wanted: Wanted, due: Callable[[], bool]) -> Listing:
        """Lists sockets one by one, between two snapshots. Raises GaveWay once one is `due`, and NothingListed."""
        from loiter_agent.socket_listing import list_sockets  # late: hardly ever asked for

        return list_sockets(self._namespaces, self._owners, names, scan, wanted, due)

    def set_interval(self, interval: float) -> None:
        """Changes the time between two snapshots, in seconds."""
        self._close_waits.set_interval(interval)

    def close(self) -> None:
        """Closes what it holds open."""
        self._namespaces.close()
        if self._tracer is not None:
            self._tracer.close()

    def _look_into(
        self, now: float, scan: ProcessScan, opened: Iterable[OpenNamespace]
    ) -> tuple[Charges, dict[int, _CloseWait], dict[Group, WaitingSockets]]:
        """Ends a tick: who holds which sockets, why some stay in CLOSE_WAIT, and whose those in TIME_WAIT were."""
        before = self._owners.before(self._time_waits.new_connections())
        of_unknown_age = self._close_waits.of_unknown_age(now)
        ages, sent = self._ask(opened, of_unknown_age, self._close_waits.to_ask_about)
        self._listeners.finish(now)
        charges = self._owners.finish()
        details = self._close_waits.finish(
            now, self._read_ids, ages, self._accepted, self._owners.holders_of, self._listeners.of, sent
        )
        self._shares.update(self._fresh(charges))
        self._acceptors.update(now, charges.places, self._owners.process)
        waiting = self._time_waits.finish(
            Clues(
                before=before,
                process=self._owners.process,
                listeners=self._listening_processes,
                in_cgroup=self._owners.in_cgroup,
                alive=scan.processes.__contains__,
                accepted=self._accepted,
                shares=self._shares,
                tracer=self._tracer,
                now=since_boot(),
            )
        )
        close_waits = {holder: _CloseWait(one.count, one.unaccepted, one) for holder, one in details.items()}
        return charges, close_waits, waiting

    def _counted_close_waits(self, charges: Charges) -> dict[int, _CloseWait]:
        """Charges CLOSE_WAIT sockets to those who hold them, or should have accepted them."""
        unaccepted = self._unaccepted.charge(self._owners.holders_of, self._listeners.of)
        counts = Counter(unaccepted)
        for place, states in charges.places.items():
            if place.holder >= 0:
                counts[place.holder] += states.get(TCP_CLOSE_WAIT, 0)
        return {holder: _CloseWait(count, unaccepted[holder]) for holder, count in counts.items() if count}

    def _no_clues(self) -> Clues:
        return Clues(
            before={},
            process=lambda _: None,
            listeners=lambda *_: (),
            in_cgroup=lambda _: (),
            alive=lambda _: False,
            accepted=self._accepted,
            shares=self._shares,
            tracer=None,
        )

    def _forget_last_tick(self) -> None:
        """The next tick that looks into sockets is not the one after the last that did."""
        self._close_waits.pause()
        self._owners.forget_connections()
        self._shares = Shares()

    def _count_into(self, counts: Counter[int], opened: Iterable[OpenNamespace]) -> bool:
        """Counts all sockets once. Returns whether a dump was torn."""
        torn = False
        for namespace in opened:
            try:
                for chunk in _sockets(namespace):
                    counts.update(chunk.states())
            except TornDumpError:
                torn = True
            except OSError:
                if namespace.own:
                    raise
        return torn

    def _read(self, scan: ProcessScan, opened: Iterable[OpenNamespace]) -> bool:
        """Reads all sockets once. Returns whether a dump was torn."""
        self._owners.begin(scan, remember=self._detailed)
        self._listeners.begin()
        self._close_waits.begin()
        self._unaccepted = Unaccepted()
        self._time_waits.begin()
        self._read_ids = set()
        torn = False
        for namespace in opened:
            try:
                self._feed(namespace)
                self._read_ids.add(namespace.id)
            except TornDumpError:
                self._read_ids.add(namespace.id)
                torn = True
            except OSError:
                if namespace.own:
                    raise
                # It has just gone, or may not be read: it is not among those that were.
        return torn

    def _feed(self, namespace: OpenNamespace) -> None:
        """Reads the sockets of one namespace. Raises OSError and TornDumpError."""
        with_listeners: list[Chunk] = []
        try:
            for chunk in _sockets(namespace):
                states = chunk.states()
                if TCP_LISTEN in states:
                    # Listeners come first, but in as many chunks as their messages have lengths, with connections
                    # behind them: who accepted those is not known before the last of these chunks.
                    self._listeners.feed(namespace.id, chunk, states)
                    with_listeners.append(Chunk(memoryview(bytes(chunk.view)), chunk.stride, chunk.count))
                else:
                    self._feed_chunk(namespace, chunk, states)
        finally:
            for chunk in with_listeners:
                self._feed_chunk(namespace, chunk, chunk.states())

    def _feed_chunk(self, namespace: OpenNamespace, chunk: Chunk, states: bytes) -> None:
        offset = self._offset(namespace)
        if chunk.are_mini_sockets:
            self._time_waits.feed(namespace.id, offset, chunk, states)
            return
        if TCP_CLOSE_WAIT in states:
            if self._detailed:
                self._close_waits.feed(namespace.id, offset, chunk, states)
            else:
                self._unaccepted.feed(namespace.id, chunk, states)
        self._owners.feed(namespace.id, offset, chunk, states, self._accepted)

    def _ask(
        self, opened: Iterable[OpenNamespace], of_unknown_age: set[int], to_ask_about: set[int]
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Asks the kernel about the CLOSE_WAIT sockets of some namespaces: seconds by cookie, as far as it says.

        Returns how long they have been in that state, a lower bound because an answered keepalive resets it, and since
        when nothing was sent on them.
        """
        ages: dict[int, float] = {}
        sent: dict[int, float] = {}
        for namespace in opened:
            if namespace.id not in of_unknown_age | to_ask_about or namespace.how != "sock_diag":
                continue
            offset = self._offset(namespace)
            try:
                for chunk in namespace.dump(1 << TCP_CLOSE_WAIT, _WITH_INFO):
                    for index, cookie in enumerate(chunk.cookies()):
                        milliseconds = chunk.last_ack_received(index)
                        if milliseconds is not None and namespace.id in of_unknown_age:
                            ages[cookie + offset] = milliseconds / 1_000
                        milliseconds = chunk.last_data_sent(index)
                        if milliseconds is not None:
                            sent[cookie + offset] = milliseconds / 1_000
            except (TornDumpError, OSError):
                continue  # what was not heard of counts from now on
        return ages, sent

    def _limits(self, now: float, own: OpenNamespace) -> TimeWaitLimits:
        overflows, settings = own.time_wait_overflows, own.settings
        rate = None
        if overflows is not None and self._overflows is not None and now > self._overflows[0]:
            rate = max(0, overflows - self._overflows[1]) / (now - self._overflows[0])
        self._overflows = (now, overflows) if overflows is not None else None
        return TimeWaitLimits(
            overflows=overflows,
            max_buckets=settings.max_tw_buckets if settings else None,
            reuse=settings.tw_reuse if settings else None,
            seconds=TIME_WAIT_SECONDS,
            overflows_per_second=rate,
        )

    def _offset(self, namespace: OpenNamespace) -> int:
        """What is added to the cookies of a namespace, so that they are unlike those of any other.

        Cookies are counted up over all namespaces from Linux 5.11 on, before that in each.
        """
        if namespace.own:
            return 0
        if namespace.id not in self._offsets:
            self._offsets[namespace.id] = next(self._numbers) << 32
        return self._offsets[namespace.id]

    def _accepted(self, namespace: int, connection: bytes) -> bool:
        return self._listeners.accepted(namespace, connection, self._port_ranges.get(namespace))

    def _listening_processes(self, namespace: int, connection: bytes) -> tuple[ProcessKey, ...]:
        """The processes that a connection may have been accepted by.

        Of those that share a listener, one alone is charged with it, which may be a parent or a manager that leaves
        accepting to others: who was seen with accepted connections is more likely.
        """
        listeners = self._listeners.all_of(namespace, connection)
        found = {self._owners.process(self._owners.holder_of(listener.inode)) for listener in listeners}
        if found:
            accepting = self._acceptors.of(namespace, local_port(connection))
            found = (found & accepting) or accepting or found
        return tuple(sorted((key for key in found if key is not None), key=lambda key: (key.start_ticks, key.pid)))

    def _fresh(self, charges: Charges) -> Iterable[tuple[tuple[int, int, bytes, int], ProcessKey | None, int]]:
        """New connections to each destination, and whose they are. Those that stand still close nothing."""
        for place, count in charges.fresh.items():
            if place.role == ROLE_OPENED and place.port:
                holder = place.holder if place.holder >= 0 else place.former
                key = (place.namespace, place.family, place.destination, place.port)
                yield key, self._owners.process(holder), count

    def _by_process(
        self,
        charges: Charges,
        held: Mapping[int, _CloseWait],
        waiting: Mapping[Group, WaitingSockets],
        budgets: Iterable[PortBudget],
    ) -> dict[ProcessKey, ProcessSockets]:
        established: Counter[ProcessKey] = Counter()
        totals: Counter[ProcessKey] = Counter()
        for place, states in charges.places.items():
            key = self._owners.process(place.holder)
            if key is not None:
                totals[key] += sum(states.values())
                established[key] += states.get(inet_diag.TCP_ESTABLISHED, 0)
        close_waits = {key: one for holder, one in held.items() if (key := self._owners.process(holder)) is not None}
        for key, close_wait in close_waits.items():
            totals[key] += close_wait.unaccepted  # which no place is charged with to it
        time_wait: Counter[ProcessKey] = Counter()
        for group, sockets in waiting.items():
            if group.owner.key is not None:
                time_wait[group.owner.key] += len(sockets.time_wait)
        shares: dict[ProcessKey, float] = {}
        for budget in budgets:
            if budget.owner is not None and budget.available:
                shares[budget.owner] = max(shares.get(budget.owner, 0.0), min(1.0, budget.used / budget.available))
        keys = totals.keys() | time_wait.keys() | close_waits.keys()
        return {
            key: ProcessSockets(
                established=established[key],
                close_wait=close_waits[key].count if key in close_waits else 0,
                total=totals[key],
                # Of those that were not looked into, some may be its.
                time_wait=time_wait[key] if self._detailed else None,
                detail=close_waits[key].detail if key in close_waits else None,
                ports_share=shares.get(key),
            )
            for key in keys
        }

    def _counts(self, charges: Charges) -> Counter[int]:
        counts = Counter(self._time_waits.states)
        for states in charges.places.values():
            counts.update(states)
        return counts

    def _states(self, counts: Counter[int], opened: Sequence[OpenNamespace]) -> TcpStates:
        # /proc/net/tcp does not list them, nor do kernels before 6.8.
        if self._lists_bound_inactive is None:
            self._lists_bound_inactive = opened[0].lists_bound_inactive()
        lists_bound_inactive = self._lists_bound_inactive and all(one.how != "procfs" for one in opened)
        return TcpStates(
            established=counts[inet_diag.TCP_ESTABLISHED],
            syn_sent=counts[inet_diag.TCP_SYN_SENT],
            syn_recv=counts[inet_diag.TCP_SYN_RECV],
            fin_wait1=counts[inet_diag.TCP_FIN_WAIT1],
            fin_wait2=counts[inet_diag.TCP_FIN_WAIT2],
            time_wait=counts[inet_diag.TCP_TIME_WAIT],
            close=None,
            close_wait=counts[inet_diag.TCP_CLOSE_WAIT],
            last_ack=counts[inet_diag.TCP_LAST_ACK],
            listen=counts[inet_diag.TCP_LISTEN],
            closing=counts[inet_diag.TCP_CLOSING],
            new_syn_recv=counts[inet_diag.TCP_NEW_SYN_RECV],
            bound_inactive=counts[inet_diag.TCP_BOUND_INACTIVE] if lists_bound_inactive else None,
        )


def _sockets(namespace: OpenNamespace) -> Iterator[Chunk]:
    """Reads all sockets of a namespace, in as little as it takes."""
    idle = namespace.idle_sockets()
    if idle is not None:
        yield from idle
        return
    stat = namespace.sock_stat()
    if stat is not None and stat.tw >= _SPLIT_FROM_TIME_WAIT:
        torn = None
        try:
            yield from namespace.dump(ALL_STATES & ~TIME_WAIT_STATES)
        except TornDumpError as error:
            torn = error  # of the other half, all may be there
        yield from namespace.dump(TIME_WAIT_STATES)
        if torn:
            raise torn
    else:
        yield from namespace.dump(ALL_STATES)


def _time_wait_groups(waiting: Mapping[Group, WaitingSockets]) -> tuple[TimeWaitGroup, ...]:
    """Adds up by namespace, destination or listener, and owner: the largest one by one, the rest by kind of owner."""
    counts: Counter[tuple[Place, TimeWaitOwner]] = Counter()
    for group, sockets in waiting.items():
        if sockets.time_wait:
            source = group.place.source if group.place.role == ROLE_ACCEPTED else b""
            counts[group.place._replace(source=source), group.owner] += len(sockets.time_wait)
    ordered = counts.most_common()
    shown, rest = ordered[:_TOLD_APART], ordered[_TOLD_APART:]
    groups = [_group(place, owner, number) for (place, owner), number in shown]
    folded: Counter[TimeWaitOwner] = Counter()
    for (_, owner), number in rest:
        folded[owner] += number
    by_owner = folded.most_common()
    room = MAX_TIME_WAIT_GROUPS - len(groups) - len(OWNER_SOURCES)
    unnamed: Counter[TimeWaitOwner] = Counter()
    for owner, number in by_owner[room:]:
        unnamed[TimeWaitOwner(None, owner.how)] += number
    others = [*by_owner[:room], *unnamed.items()]
    return (*groups, *(TimeWaitGroup(0, None, None, n, n / TIME_WAIT_SECONDS, owner) for owner, n in others))


def _group(place: Place, owner: TimeWaitOwner, count: int) -> TimeWaitGroup:
    told_apart = bool(place.port)
    return TimeWaitGroup(
        namespace=place.namespace,
        destination=destination_text(place) if told_apart and place.role == ROLE_OPENED else None,
        listener=destination_text(place) if told_apart and place.role == ROLE_ACCEPTED else None,
        count=count,
        closes_per_second=count / TIME_WAIT_SECONDS,
        owner=owner,
    )
