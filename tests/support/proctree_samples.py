"""Samples as a tick of the agent yields them."""

from __future__ import annotations

from datetime import UTC, datetime

from loiter_agent.sample import (
    CollectorStatus,
    Cost,
    Coverage,
    HostFds,
    HostIdentity,
    OtherProcesses,
    ProcessRow,
    Sample,
    TcpStates,
)

TIME = datetime(2026, 3, 1, 12, 30, 15, 250_000, UTC)

HOST = HostIdentity(
    host_id="ab" * 16,
    hostname="web-1",
    boot_id="8f0b6f6e-5d0e-4f6b-9d3c-0a1b2c3d4e5f",
    kernel_release="6.12.0",
    labels=(("role", "web"),),
)

ROW = ProcessRow(
    pid=4242,
    start_time=datetime(2026, 3, 1, 6, 0, 0, 0, UTC),
    name="gunicorn",
    app="web.service",
    user="www-data",
    established=120,
    close_wait=1_500,
    time_wait=None,
    sockets=1_650,
    fd_open=1_700,
    fd_limit=4_096,
)

UNKNOWN_ROW = ProcessRow(
    pid=7,
    start_time=datetime(2026, 3, 1, 6, 0, 0, 0, UTC),
    name="secretd",
    app="secretd",
    user=None,
    established=None,
    close_wait=None,
    time_wait=None,
    sockets=None,
    fd_open=None,
    fd_limit=None,
)

FULL = Sample(
    time=TIME,
    sampler="sock_diag",
    tcp_states=TcpStates(
        established=200, syn_sent=0, time_wait=3_000, close_wait=1_500, listen=12, new_syn_recv=3, bound_inactive=None
    ),
    host_fds=HostFds(allocated=9_500, limit=1_048_576),
    processes=(ROW,),
    other=OtherProcesses(processes=180, established=80, close_wait=0, sockets=92, fd_open=4_000),
    coverage=Coverage(
        sockets_attributed=1_742,
        sockets_unattributed=3,
        sockets_ownerless=3_010,
        close_wait_uncharged=7,
        processes=181,
        processes_unreadable=2,
        processes_vanished=1,
        namespaces=3,
        namespaces_unread=2,
        dump_torn=True,
    ),
    cost=Cost(cpu_seconds=0.0125, wall_seconds=0.02, process_cpu_seconds=7.5, resident_bytes=40_000_000),
    collectors=(
        CollectorStatus("processes", 0.004, None),
        CollectorStatus("tcp", 0.008, None),
        CollectorStatus("host_fds", 0.001, None),
    ),
)

# What a tick yields in which every collector failed.
EMPTY = Sample(
    time=TIME,
    sampler=None,
    tcp_states=TcpStates(),
    host_fds=None,
    processes=(),
    other=None,
    coverage=Coverage(None, None, None, None, None, None, None, None, None, dump_torn=False),
    cost=Cost(cpu_seconds=0.001, wall_seconds=0.001, process_cpu_seconds=1.0, resident_bytes=None),
    collectors=(CollectorStatus("tcp", 0.0, "Operation not permitted"),),
)
