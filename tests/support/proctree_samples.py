"""Samples as a tick of the agent yields them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from loiter_agent.sample import (
    AcceptQueue,
    Ages,
    CollectorStatus,
    Container,
    Cost,
    Coverage,
    Evidence,
    HostFds,
    HostIdentity,
    Namespace,
    OtherProcesses,
    OwnerRow,
    Peer,
    PortRow,
    ProcessRow,
    Sample,
    TcpStates,
    TimeWaitLimits,
    TimeWaitRow,
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

EVIDENCE = Evidence(
    settled=1_400,
    survived=0.99,
    eof_read=1_300,
    fin_unread=50,
    farewell_unread=25,
    data_unread=20,
    never_accepted=5,
    client_side=0,
    accept_queue=AcceptQueue(5, None),
    threads=300,
    threads_read=64,
    thread_states={"S": 60, "D": 4},
    wait_channels={"futex_do_wait": 60},
    run_delay_share=0.01,
    throttled_share=None,
    cpu_pressure=0.0,
    io_pressure=0.2,
)

# A row of which everything is known.
EXPLAINED_ROW = replace(
    ROW,
    time_wait=30,
    fd_limit_hard=1_048_576,
    cause="leak",
    evidence=EVIDENCE,
    close_wait_age_seconds=Ages(120.0, 3_600.5, 7_200.0),
    stuck=1_390,
    peers=(Peer("10.0.0.2", None, 1_499), Peer("10.0.0.3", 443, 1)),
    fd_eta_seconds=7_200.0,
    ports_share=0.25,
    container=Container("docker", "0123456789ab", None),
    arguments="gunicorn app:app",
)

CRAWLER_ROW = TimeWaitRow(
    namespace="4026531840",
    destination="10.0.0.3:443",
    listener=None,
    count=2_400,
    closes_per_second=40.0,
    owner=OwnerRow(4_343, datetime(2026, 3, 1, 6, 0, 0, 0, UTC), "crawl", "crawl.py", "exact"),
)
NOBODYS_ROW = TimeWaitRow("", None, None, 600, 10.0, OwnerRow(None, None, None, None, "unattributed"))

PORT_ROW = PortRow(
    namespace="4026531840",
    source="10.0.0.1",
    destination="10.0.0.3:443",
    used=2_500,
    available=28_232,
    time_wait=2_400,
    reusable=0,
    connects_per_second=41.5,
    exhausting_connects_per_second=470.5,
    exhausted_in_seconds=None,
    pid=4_343,
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

# The same, with all that sock_diag allows to tell.
EXPLAINED = replace(
    FULL,
    processes=(EXPLAINED_ROW,),
    time_wait=(CRAWLER_ROW, NOBODYS_ROW),
    time_wait_limits=TimeWaitLimits(overflows=3, max_buckets=131_072, reuse=2, seconds=60.0),
    ports=(PORT_ROW,),
    namespaces=(
        Namespace(4_026_531_840, "host", "sock_diag"),
        Namespace(4_026_532_001, "web", "procfs"),
        Namespace(4_026_532_002, "", None),
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
