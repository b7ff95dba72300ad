"""What `loiter-agent sample` prints: a table for people, JSON for scripts."""

from __future__ import annotations

import json
from dataclasses import replace

from loiter_agent.sample import (
    AcceptQueue,
    Ages,
    CollectorStatus,
    Evidence,
    Namespace,
    OwnerRow,
    Peer,
    PortRow,
    Sample,
    TimeWaitLimits,
    TimeWaitRow,
)
from loiter_agent.show import as_json, as_table
from support.proctree_samples import EMPTY, FULL, HOST, ROW, UNKNOWN_ROW

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\N{RIGHT-TO-LEFT OVERRIDE}\udcff\N{LINE SEPARATOR}"

EVIDENCE = Evidence(
    settled=1_400,
    survived=1.0,
    eof_read=1_400,
    fin_unread=0,
    farewell_unread=0,
    data_unread=0,
    never_accepted=0,
    client_side=1_400,
    accept_queue=AcceptQueue(3, 128),
    threads=2,
    threads_read=2,
    thread_states={"S": 2},
    wait_channels={"do_epoll_wait": 2},
    run_delay_share=0.0,
    throttled_share=None,
    cpu_pressure=None,
    io_pressure=None,
)
EXPLAINED_ROW = replace(
    ROW,
    cause="leak",
    evidence=EVIDENCE,
    close_wait_age_seconds=Ages(90.0, 300.0, 310.0),
    stuck=1_000,
    peers=(Peer("10.0.0.9", 5432, 1_400),),
    fd_eta_seconds=7_200.0,
)
TIME_WAIT = TimeWaitRow(
    namespace="4026531840",
    destination="10.0.0.5:443",
    listener=None,
    count=2_400,
    closes_per_second=40.0,
    owner=OwnerRow(4242, ROW.start_time, "gunicorn", "web.service", "exact"),
)
PORTS = PortRow(
    namespace="4026531840",
    source="10.0.0.1",
    destination="10.0.0.5:443",
    used=25_000,
    available=28_232,
    time_wait=2_400,
    reusable=0,
    connects_per_second=80.0,
    exhausting_connects_per_second=470.5,
    exhausted_in_seconds=40.4,
    pid=4242,
)
EXPLAINED = replace(
    FULL,
    processes=(EXPLAINED_ROW,),
    time_wait=(
        TIME_WAIT,
        replace(
            TIME_WAIT,
            destination=None,
            listener="0.0.0.0:80",
            count=600,
            owner=OwnerRow(None, None, None, None, "unattributed"),
        ),
    ),
    time_wait_limits=TimeWaitLimits(7, 131_072, 2, 60.0, 12.5),
    ports=(PORTS, replace(PORTS, destination="10.0.0.6:443", used=100)),
    namespaces=(Namespace(4026531840, "host", "sock_diag"), Namespace(4026532007, "docker:nginx", None)),
)


def line_with(word: str, sample: Sample) -> str:
    (line,) = [line for line in as_table(HOST, sample).splitlines() if word in line]
    return line


class TestJson:
    def test_the_keys_are_those_that_scripts_rely_on(self) -> None:
        """To rename one breaks them."""
        document = json.loads(as_json(HOST, FULL))
        assert list(document) == [
            "time",
            "host",
            "sampler",
            "tcp_states",
            "host_fds",
            "processes",
            "other",
            "coverage",
            "cost",
            "collectors",
            "time_wait",
            "time_wait_limits",
            "ports",
            "namespaces",
        ]
        assert list(document["host"]) == ["host_id", "hostname", "boot_id", "kernel_release", "labels"]
        assert list(document["tcp_states"]) == [
            "established",
            "syn_sent",
            "syn_recv",
            "fin_wait1",
            "fin_wait2",
            "time_wait",
            "close",
            "close_wait",
            "last_ack",
            "listen",
            "closing",
            "new_syn_recv",
            "bound_inactive",
        ]
        assert list(document["processes"][0]) == [
            "pid",
            "start_time",
            "name",
            "app",
            "user",
            "established",
            "close_wait",
            "time_wait",
            "sockets",
            "fd_open",
            "fd_limit",
            "fd_limit_hard",
            "cause",
            "evidence",
            "close_wait_age_seconds",
            "stuck",
            "peers",
            "fd_eta_seconds",
            "ports_share",
            "container",
            "arguments",
            "fd_socket_share",
        ]
        assert list(document["other"]) == ["processes", "established", "close_wait", "sockets", "fd_open"]
        assert list(document["collectors"][0]) == ["name", "duration_seconds", "error"]

    def test_times_are_rfc_3339_in_utc(self) -> None:
        """With milliseconds."""
        document = json.loads(as_json(HOST, FULL))
        assert document["time"] == "2026-03-01T12:30:15.250Z"
        assert document["processes"][0]["start_time"] == "2026-03-01T06:00:00.000Z"

    def test_unknown_is_null(self) -> None:
        """Never 0, and no key is missing."""
        document = json.loads(as_json(HOST, EMPTY))
        assert set(document["tcp_states"].values()) == {None}
        assert document["host_fds"] == {"allocated": None, "limit": None}
        assert document["sampler"] is None
        assert document["coverage"]["sockets_attributed"] is None
        assert list(document) == list(json.loads(as_json(HOST, FULL)))

    def test_names_are_escaped_and_come_back_as_they_were(self) -> None:
        """The output is ASCII, whatever a process calls itself."""
        text = as_json(HOST, replace(FULL, processes=(replace(ROW, name=ESCAPES),)))
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
        assert json.loads(text)["processes"][0]["name"] == ESCAPES

    def test_cause_age_and_peers_are_those_of_the_sample(self) -> None:
        """The evidence is an object."""
        process = json.loads(as_json(HOST, EXPLAINED))["processes"][0]
        assert process["cause"] == "leak"
        assert process["evidence"]["eof_read"] == 1_400
        assert process["evidence"]["accept_queue"] == {"depth": 3, "limit": 128}
        assert process["close_wait_age_seconds"] == {"p50": 90.0, "p99": 300.0, "max": 310.0}
        assert process["stuck"] == 1_000
        assert process["peers"] == [{"address": "10.0.0.9", "port": 5432, "count": 1_400}]
        assert process["fd_eta_seconds"] == 7_200.0

    def test_time_wait_ports_and_namespaces_are_lists(self) -> None:
        """An owner that was not found has no pid, and says so."""
        document = json.loads(as_json(HOST, EXPLAINED))
        assert document["time_wait"][0] == {
            "namespace": "4026531840",
            "destination": "10.0.0.5:443",
            "listener": None,
            "count": 2_400,
            "closes_per_second": 40.0,
            "owner": {
                "pid": 4242,
                "start_time": "2026-03-01T06:00:00.000Z",
                "name": "gunicorn",
                "app": "web.service",
                "how": "exact",
            },
        }
        assert document["time_wait"][1]["owner"] == {
            "pid": None,
            "start_time": None,
            "name": None,
            "app": None,
            "how": "unattributed",
        }
        assert document["ports"][0]["used"] == 25_000
        assert document["namespaces"] == [
            {"id": "4026531840", "name": "host", "read": True, "sampler": "sock_diag"},
            {"id": "4026532007", "name": "docker:nginx", "read": False, "sampler": None},
        ]
        assert document["time_wait_limits"] == {
            "overflows": 7,
            "max_buckets": 131_072,
            "reuse": 2,
            "seconds": 60.0,
            "overflows_per_second": 12.5,
        }

    def test_labels_are_an_object(self) -> None:
        """As in the settings file."""
        assert json.loads(as_json(HOST, FULL))["host"]["labels"] == {"role": "web"}


class TestTable:
    def test_a_process_is_one_line(self) -> None:
        """With its CLOSE_WAIT sockets and its share of the limit."""
        assert line_with("web.service", FULL).split() == ["4242", "web.service", "1,500", "-", "120", "1,700", "41.5"]
        sample = replace(EXPLAINED, time_wait=None)
        line = next(line for line in as_table(HOST, sample).splitlines() if line.lstrip().startswith("4242"))
        assert line.split()[2:6] == ["1,500", "leak", "5m", "10s"]

    def test_a_cause_is_put_in_words(self) -> None:
        """What it rests on, since when, who is at the other end, and when it breaks."""
        words = " ".join(as_table(HOST, EXPLAINED).split())
        assert "leak: 4242 web.service (gunicorn): it has read the end of the stream and does not close" in words
        assert "1,400 of 1,400 read to the end" in words
        assert "accept queue 3 of 128" in words
        assert "the oldest has waited for 5m 10s, 1,000 for over a minute" in words
        assert "peers: 10.0.0.9:5432 (1,400)" in words
        assert "no descriptors left in 2h at this pace" in words

    def test_time_wait_is_shown_with_its_owner_and_how_that_was_found(self) -> None:
        """And with who closed first."""
        assert "because this host closed first" in as_table(HOST, EXPLAINED)
        assert line_with("10.0.0.5:443  ", replace(EXPLAINED, ports=())).split() == [
            "to", "10.0.0.5:443", "2,400", "40.0", "web.service", "4242", "exact",
        ]  # fmt: skip
        assert line_with("0.0.0.0:80", EXPLAINED).split()[-2:] == ["-", "unattributed"]

    def test_only_budgets_of_ports_that_are_used_are_shown(self) -> None:
        """With the time left; one that is hardly used is not worth a line."""
        assert line_with("25,000", EXPLAINED).split() == [
            "10.0.0.5:443", "10.0.0.1", "25,000", "28,232", "89", "40s",
        ]  # fmt: skip
        assert "10.0.0.6:443" not in as_table(HOST, EXPLAINED)

    def test_sockets_that_did_not_fit_into_time_wait_are_told_of(self) -> None:
        """The count of TIME_WAIT is then too low."""
        table = " ".join(as_table(HOST, EXPLAINED).split())
        assert "7 sockets since boot did not fit into TIME_WAIT" in table
        assert "12.5 a second, which are closes that CLOSES/S does not count" in table

    def test_hidden_processes_are_told_of(self) -> None:
        """How many there are can not be known."""
        coverage = replace(FULL.coverage, processes_unreadable=None)
        assert "the processes of other users are hidden" in as_table(HOST, replace(FULL, coverage=coverage))

    def test_states_are_named_as_everywhere(self) -> None:
        """Those with sockets, in the kernel's order."""
        lines = as_table(HOST, FULL).splitlines()
        first = lines.index(next(line for line in lines if line.startswith("STATE"))) + 1
        shown = [line.split() for line in lines[first : lines.index("", first)]]
        assert [line for line in shown if line[1] != "-"] == [
            ["ESTAB", "200"],
            ["TIME_WAIT", "3,000"],
            ["CLOSE_WAIT", "1,500"],
            ["LISTEN", "12"],
            ["NEW_SYN_RECV", "3"],
        ]
        assert ["BOUND_INACTIVE", "-"] in shown, "what is not known is shown, what is 0 is not"
        assert ["SYN_SENT", "0"] not in shown

    def test_unknown_is_a_dash(self) -> None:
        """Never 0."""
        sample = replace(FULL, processes=(UNKNOWN_ROW,))
        assert line_with("secretd", sample).split() == ["7", "secretd", "-", "-", "-", "-", "-", "-"]

    def test_a_sample_without_sockets_read_says_so(self) -> None:
        """No states is not the same as no sockets."""
        table = as_table(HOST, EMPTY)
        assert "read by nothing" in table
        assert line_with("ESTAB", EMPTY).split()[:2] == ["ESTAB", "-"]
        assert "more processes" not in table
        assert "coverage" not in table

    def test_what_the_figures_rest_on_is_said(self) -> None:
        """What could not be read stands below the table."""
        table = as_table(HOST, FULL)
        assert "1,742 of 1,745 sockets charged to a process; 3,010 have no owner" in table
        assert "2 of 181 processes unreadable" in table
        assert "2 of 3 network namespaces not read" in table
        assert "changed while it was read" in table
        assert "9,500 file handles of 1,048,576" in table

    def test_a_failed_collector_is_named(self) -> None:
        """With the reason."""
        assert "tcp: Operation not permitted" in as_table(HOST, EMPTY)

    def test_a_usual_sample_fits_80_columns(self) -> None:
        """The width of a terminal nobody has touched."""
        for sample in (FULL, EMPTY, EXPLAINED, replace(FULL, processes=(ROW, UNKNOWN_ROW))):
            assert max(len(line) for line in as_table(HOST, sample).splitlines()) <= 80

    def test_escape_sequences_are_inert(self) -> None:
        """Whatever other people's processes call themselves, the terminal does not act on it."""
        evidence = replace(EVIDENCE, wait_channels={ESCAPES: 1})
        row = replace(EXPLAINED_ROW, name=ESCAPES, app=ESCAPES, user=ESCAPES, evidence=evidence)
        owner = replace(TIME_WAIT.owner, name=ESCAPES, app=ESCAPES)
        collectors = (CollectorStatus("tcp", 0.0, ESCAPES),)
        table = as_table(
            replace(HOST, hostname=ESCAPES),
            replace(EXPLAINED, processes=(row,), collectors=collectors, time_wait=(replace(TIME_WAIT, owner=owner),)),
        )
        assert table.replace("\n", "").isprintable()
        assert "\x1b" not in table

    def test_long_names_are_cut_with_a_mark(self) -> None:
        """So that no row is wider than the others."""
        line = line_with("4242", replace(FULL, processes=(replace(ROW, name="n" * 200, app="a" * 200),)))
        assert "aaa…" in line


def test_a_table_never_exceeds_80_columns() -> None:
    """With the longest names, pids and counts, characters of double width included."""
    row = replace(
        ROW, pid=4_194_304, name="n" * 200, app="応" * 100, user="u" * 64, close_wait=1_000_000, fd_open=10**7
    )
    failed = CollectorStatus("tcp", 0.0, "word " * 60)
    table = as_table(replace(HOST, hostname="h" * 200), replace(FULL, processes=(row,), collectors=(failed,)))
    for line in table.splitlines():
        assert sum(2 if char == "応" else 1 for char in line) <= 80, line
    assert "4194304" in table
    assert "1,000,000" in table
