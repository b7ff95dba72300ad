"""What one tick yields. None stands for what could not be read, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final, Literal, get_args

Sampler = Literal["sock_diag", "psutil", "procfs"]
Cause = Literal["leak", "idle_pool", "stalled_reader", "cpu_starved", "never_accepted", "unknown"]
OwnerSource = Literal["exact", "listener", "cgroup", "destination", "unattributed"]
OWNER_SOURCES: Final[tuple[OwnerSource, ...]] = get_args(OwnerSource)


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The machine. `host_id` is None where there is neither a machine-id nor a state directory to keep one in."""

    host_id: str | None
    hostname: str
    boot_id: str
    kernel_release: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpStates:
    """Sockets by state (include/net/tcp_states.h of the kernel). The order is that of the enum there."""

    established: int | None = None
    syn_sent: int | None = None
    syn_recv: int | None = None
    fin_wait1: int | None = None
    fin_wait2: int | None = None
    time_wait: int | None = None
    close: int | None = None
    close_wait: int | None = None
    last_ack: int | None = None
    listen: int | None = None
    closing: int | None = None
    new_syn_recv: int | None = None
    bound_inactive: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """A process of this boot. `start_ticks` is the start time in clock ticks since boot, from proc_pid_stat(5)."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Ages:
    """How long the sockets of a set have been in their state, in seconds."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of `count` sockets. `port` is None for clients, whose ports are many."""

    address: str
    port: int | None
    count: int


@dataclass(frozen=True, slots=True)
class AcceptQueue:
    """The connections that wait to be accepted, and how many may (the backlog of listen(2)), None if not known."""

    depth: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class CloseWaitSockets:
    """The CLOSE_WAIT sockets of one process, those that it never accepted included.

    A socket is settled when it has been so for longer than ordinary handling accounts for. The classes from `eof_read`
    to `never_accepted` are of the settled ones and add up to `settled`; see CloseWaitEvidence in sample.proto.
    `unaccepted` are those of all that nobody has accepted, `turns_over` tells that the settled ones go as fast as they
    come, and `of_unknown_age` counts those of which nobody knows since when they are in CLOSE_WAIT: `ages` and `stuck`
    are then None.
    """

    count: int
    settled: int
    survived: float | None
    eof_read: int
    fin_unread: int
    farewell_unread: int
    data_unread: int
    never_accepted: int
    client_side: int
    stuck: int | None
    ages: Ages | None
    peers: tuple[Peer, ...]
    accept_queue: AcceptQueue | None
    growth_per_second: float | None
    unaccepted: int = 0
    turns_over: bool = False
    of_unknown_age: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What the threads of a process are doing, and whether they get the processor. None for what can not be read."""

    threads: int | None
    threads_read: int
    thread_states: Mapping[str, int]
    wait_channels: Mapping[str, int]
    run_delay_share: float | None
    throttled_share: float | None
    cpu_pressure: float | None
    io_pressure: float | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a cause rests on; the fields are those of CloseWaitEvidence in sample.proto."""

    settled: int
    survived: float | None
    eof_read: int
    fin_unread: int
    farewell_unread: int
    data_unread: int
    never_accepted: int
    client_side: int
    accept_queue: AcceptQueue | None
    threads: int | None
    threads_read: int | None
    thread_states: Mapping[str, int]
    wait_channels: Mapping[str, int]
    run_delay_share: float | None
    throttled_share: float | None
    cpu_pressure: float | None
    io_pressure: float | None


@dataclass(frozen=True, slots=True)
class Container:
    """The container of a process: its runtime, short id or name, and Kubernetes pod uid, if any."""

    runtime: str
    id: str
    pod: str | None


@dataclass(frozen=True, slots=True)
class ProcessSockets:
    """The TCP sockets charged to one process. `close_wait` counts those that it never accepted, too.

    `detail` is None where there are no CLOSE_WAIT sockets, or where the collector can not look into them.
    """

    established: int = 0
    close_wait: int = 0
    total: int = 0
    time_wait: int | None = None
    detail: CloseWaitSockets | None = None
    ports_share: float | None = None


@dataclass(frozen=True, slots=True)
class TimeWaitOwner:
    """The process that held a socket before TIME_WAIT, and how it was found.

    Where only the cgroup or the port is known, `members` are all processes that are in it or listen on it, and `key` is
    None unless there is just one.
    """

    key: ProcessKey | None
    how: OwnerSource
    members: tuple[ProcessKey, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeWaitGroup:
    """TIME_WAIT sockets with their other end, or their listener, and their owner in common.

    `destination` and `listener` are "address:port"; just one of them is set, neither in a group that stands for the
    rest.
    """

    namespace: int
    destination: str | None
    listener: str | None
    count: int
    closes_per_second: float
    owner: TimeWaitOwner


@dataclass(frozen=True, slots=True)
class TimeWaitLimits:
    """What the kernel lets TIME_WAIT sockets do, in the agent's own network namespace."""

    overflows: int | None
    max_buckets: int | None
    reuse: int | None
    seconds: float
    overflows_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class PortBudget:
    """The ephemeral ports towards one destination; the fields are those of the message in sample.proto."""

    namespace: int
    source: str
    destination: str
    used: int
    available: int | None
    time_wait: int
    reusable: int
    connects_per_second: float | None
    exhausting_connects_per_second: float | None
    exhausted_in_seconds: float | None
    owner: ProcessKey | None


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace. `id` is its inode number, `how` tells how its sockets were read, None that they were not.

    `member` is its oldest process, None where nothing but a bind mount keeps it.
    """

    id: int
    name: str
    how: Sampler | None
    member: ProcessKey | None = None

    @property
    def read(self) -> bool:
        """Whether its sockets are in the sample."""
        return self.how is not None


@dataclass(frozen=True, slots=True)
class TcpSnapshot:
    """What a socket collector saw: the host's states, each process's sockets, and what the charging rests on.

    `time_wait_nobodys` are the namespaces with TIME_WAIT sockets that may be of any process that lives in them.
    """

    sampler: Sampler
    states: TcpStates
    by_process: Mapping[ProcessKey, ProcessSockets]
    attributed: int
    unattributed: int
    ownerless: int
    torn: bool
    time_wait: tuple[TimeWaitGroup, ...] | None = None
    time_wait_nobodys: frozenset[int] = frozenset()
    time_wait_limits: TimeWaitLimits | None = None
    ports: tuple[PortBudget, ...] | None = None
    namespaces: tuple[Namespace, ...] = ()

    @property
    def close_wait_uncharged(self) -> int | None:
        """Sockets in CLOSE_WAIT that no process is charged with: never accepted, or their holder was not found."""
        if self.states.close_wait is None:
            return None
        return self.states.close_wait - sum(sockets.close_wait for sockets in self.by_process.values())


@dataclass(frozen=True, slots=True)
class TcpCounts:
    """What a socket collector counted, where nobody is asked whose the sockets are.

    `namespaces_unread` are those that were not read because that would have been dear.
    """

    sampler: Sampler
    states: TcpStates
    torn: bool = False
    namespaces_unread: int = 0


@dataclass(frozen=True, slots=True)
class ProcessFds:
    """One process as the process scan saw it. `fd_open` and `fd_limit` are None where they could not be read.

    `namespace` is the inode number of its network namespace, None where that could not be read; `readable` tells
    whether its descriptors can be looked into.
    """

    key: ProcessKey
    comm: str
    fd_open: int | None
    fd_limit: int | None
    fd_limit_hard: int | None = None
    namespace: int | None = None
    readable: bool = True


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One reported process."""

    pid: int
    start_time: datetime
    name: str
    app: str
    user: str | None
    established: int | None
    close_wait: int | None
    time_wait: int | None
    sockets: int | None
    fd_open: int | None
    fd_limit: int | None
    fd_limit_hard: int | None = None
    cause: Cause | None = None
    evidence: Evidence | None = None
    close_wait_age_seconds: Ages | None = None
    stuck: int | None = None
    peers: tuple[Peer, ...] | None = None
    fd_eta_seconds: float | None = None
    ports_share: float | None = None
    container: Container | None = None
    arguments: str | None = None
    fd_socket_share: float | None = None


@dataclass(frozen=True, slots=True)
class TimeWaitRow:
    """One group of TIME_WAIT sockets as it is reported, with its owner by name."""

    namespace: str
    destination: str | None
    listener: str | None
    count: int
    closes_per_second: float
    owner: OwnerRow


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """The owner of TIME_WAIT sockets as it is reported. All but `how` is None where nobody was found."""

    pid: int | None
    start_time: datetime | None
    name: str | None
    app: str | None
    how: OwnerSource


@dataclass(frozen=True, slots=True)
class PortRow:
    """One budget of ephemeral ports as it is reported."""

    namespace: str
    source: str
    destination: str
    used: int
    available: int | None
    time_wait: int
    reusable: int
    connects_per_second: float | None
    exhausting_connects_per_second: float | None
    exhausted_in_seconds: float | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class OtherProcesses:
    """The sum of the processes that are not reported one by one, of those of which each figure is known."""

    processes: int
    established: int | None
    close_wait: int | None
    sockets: int | None
    fd_open: int | None


@dataclass(frozen=True, slots=True)
class HostFds:
    """File handles of the whole host."""

    allocated: int
    limit: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the sample rests on; the fields are those of the message of the same name in sample.proto."""

    sockets_attributed: int | None
    sockets_unattributed: int | None
    sockets_ownerless: int | None
    close_wait_uncharged: int | None
    processes: int | None
    processes_unreadable: int | None
    processes_vanished: int | None
    namespaces: int | None
    namespaces_unread: int | None
    dump_torn: bool
    namespaces_by_procfs: int | None = None


class Degradation(IntEnum):
    """What an agent over its CPU budget leaves out; see the message of the same name. Each step includes the former."""

    NONE = 0
    HALF_AS_OFTEN = 1
    QUARTER_AS_OFTEN = 2
    NO_DETAIL = 3
    COUNTS_ONLY = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What the tick cost: CPU and wall time of the tick, CPU time and resident memory of the whole agent."""

    cpu_seconds: float
    wall_seconds: float
    process_cpu_seconds: float
    resident_bytes: int | None


@dataclass(frozen=True, slots=True)
class CollectorStatus:
    """How one collector fared. `error` is None when it did not fail."""

    name: str
    duration_seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One tick of one host. Sections are None where their collector failed."""

    time: datetime
    sampler: Sampler | None
    tcp_states: TcpStates
    host_fds: HostFds | None
    processes: tuple[ProcessRow, ...]
    other: OtherProcesses | None
    coverage: Coverage
    cost: Cost
    collectors: tuple[CollectorStatus, ...]
    time_wait: tuple[TimeWaitRow, ...] | None = None
    time_wait_limits: TimeWaitLimits | None = None
    ports: tuple[PortRow, ...] | None = None
    namespaces: tuple[Namespace, ...] = ()
    # CLOCK_BOOTTIME in seconds when the tick began: never steps, and goes on while the host is suspended.
    since_boot: float = 0.0
    degradation: Degradation = Degradation.NONE
