"""What one tick yields. None stands for what could not be read, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Sampler = Literal["sock_diag", "psutil"]


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
class ProcessSockets:
    """The TCP sockets charged to one process."""

    established: int = 0
    close_wait: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class TcpSnapshot:
    """What a socket collector saw: the host's states, each process's sockets, and what the charging rests on."""

    sampler: Sampler
    states: TcpStates
    by_process: Mapping[ProcessKey, ProcessSockets]
    attributed: int
    unattributed: int
    ownerless: int
    torn: bool

    @property
    def close_wait_uncharged(self) -> int | None:
        """Sockets in CLOSE_WAIT that no process is charged with: never accepted, or their holder was not found."""
        if self.states.close_wait is None:
            return None
        return self.states.close_wait - sum(sockets.close_wait for sockets in self.by_process.values())


@dataclass(frozen=True, slots=True)
class ProcessFds:
    """One process as the process scan saw it. `fd_open` and `fd_limit` are None where they could not be read.

    `sockets_seen` tells whether its sockets are among those that a tick reads: its descriptors can be read, and it
    lives in the agent's own network namespace.
    """

    key: ProcessKey
    comm: str
    fd_open: int | None
    fd_limit: int | None
    sockets_seen: bool = True


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
