"""What `loiter-agent sample` prints: a table for people, JSON for scripts."""

from __future__ import annotations

import json
from dataclasses import replace

from loiter_agent.sample import CollectorStatus, Sample
from loiter_agent.show import as_json, as_table
from support.proctree_samples import EMPTY, FULL, HOST, ROW, UNKNOWN_ROW

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\N{RIGHT-TO-LEFT OVERRIDE}\udcff\N{LINE SEPARATOR}"


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

    def test_labels_are_an_object(self) -> None:
        """As in the settings file."""
        assert json.loads(as_json(HOST, FULL))["host"]["labels"] == {"role": "web"}


class TestTable:
    def test_a_process_is_one_line(self) -> None:
        """With its CLOSE_WAIT sockets and its share of the limit."""
        assert line_with("gunicorn", FULL).split() == [
            "4242",
            "gunicorn",
            "web.service",
            "www-data",
            "1,500",
            "120",
            "1,700",
            "41.5",
        ]

    def test_states_are_named_as_ss_names_them(self) -> None:
        """Those with sockets, in the kernel's order."""
        lines = as_table(HOST, FULL).splitlines()
        first = lines.index(next(line for line in lines if line.startswith("STATE"))) + 1
        shown = [line.split() for line in lines[first : lines.index("", first)]]
        assert [line for line in shown if line[1] != "-"] == [
            ["ESTAB", "200"],
            ["TIME-WAIT", "3,000"],
            ["CLOSE-WAIT", "1,500"],
            ["LISTEN", "12"],
            ["NEW-SYN-RECV", "3"],
        ]
        assert ["BOUND-INACTIVE", "-"] in shown, "what is not known is shown, what is 0 is not"
        assert ["SYN-SENT", "0"] not in shown

    def test_unknown_is_a_dash(self) -> None:
        """Never 0."""
        sample = replace(FULL, processes=(UNKNOWN_ROW,))
        assert line_with("secretd", sample).split() == ["7", "secretd", "secretd", "-", "-", "-", "-", "-"]

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
        for sample in (FULL, EMPTY, replace(FULL, processes=(ROW, UNKNOWN_ROW))):
            assert max(len(line) for line in as_table(HOST, sample).splitlines()) <= 80

    def test_escape_sequences_are_inert(self) -> None:
        """Whatever other people's processes call themselves, the terminal does not act on it."""
        row = replace(ROW, name=ESCAPES, app=ESCAPES, user=ESCAPES)
        collectors = (CollectorStatus("tcp", 0.0, ESCAPES),)
        table = as_table(replace(HOST, hostname=ESCAPES), replace(FULL, processes=(row,), collectors=collectors))
        assert table.replace("\n", "").isprintable()
        assert "\x1b" not in table

    def test_long_names_are_cut_with_a_mark(self) -> None:
        """So that no row is wider than the others."""
        line = line_with("4242", replace(FULL, processes=(replace(ROW, name="n" * 200, app="a" * 200),)))
        assert "nnn…" in line
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
