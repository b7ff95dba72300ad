"""What people and programs get to see: aligned, honest about the unknown, and safe whatever a name holds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console

from loiter.tcp_states import STATE_NAMES
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.data import as_csv, as_json, csv_columns
from loiter_aggregator.output.rows import (
    Row,
    app_row,
    group_row,
    host_row,
    optional_fields,
    process_row,
    time,
)
from loiter_aggregator.output.states import states_table
from loiter_aggregator.output.tables import (
    APPS,
    GROUPS,
    HOST_PROCESSES,
    HOSTS,
    PROCESSES,
    Column,
    by_measure,
    coverage_line,
    table,
)
from support.reports import NOW, host_id, stamp

HOSTILE = "\x1b[31m\x1b]0;title\x07[red]bold[/red] \u202eevil\r\n" + "x" * 200
WINDOW = [pb.TrendPoint(start_time=stamp(NOW + part), value=part * 50) for part in range(20)]


def trend(current: int = 1_234, growth: float = 12_345.6) -> pb.CloseWaitTrend:
    """CLOSE_WAIT with everything known."""
    return pb.CloseWaitTrend(
        current=current, maximum=99_999, growth_per_hour=growth, growth_fit=0.987, samples=360, trend=WINDOW
    )


AHEAD = pb.FdForecast(
    seconds=7_200, earliest_seconds=6_000, latest_seconds=9_000, growth_per_hour=12_345.6, close_wait_share=0.5
)
VOLUME = pb.TimeWaitVolume(current=28_000, mean=27_123.4, maximum=28_231)


def known_host(name: str = "web-1") -> Row:
    """A row of a host with everything known."""
    return host_row(
        1,
        pb.HostRank(
            host_id=host_id("web-1"),
            hostname=name,
            last_report_time=stamp(NOW),
            close_wait=trend(),
            time_wait=VOLUME,
            established=50_000,
            fd_allocated=123_456,
            fd_limit=9_223_372_036_854_775_807,
            fd_share=0.123,
            cause=sample_pb2.CAUSE_STALLED_READER,
            stuck=1_230,
            fd_forecast=AHEAD,
            ports_share=0.987,
            labels={"role": name, "zone": ""},
        ),
    )


def known_process(name: str = "gateway") -> Row:
    """A row of a process with everything known."""
    return process_row(
        1,
        pb.ProcessRank(
            host_id=host_id("web-1"),
            hostname=name,
            pid=4_194_304,
            start_time=stamp(NOW),
            name=name,
            app=name,
            user=name,
            last_sample_time=stamp(NOW),
            close_wait=trend(),
            time_wait=VOLUME,
            established=50_000,
            fd_open=65_536,
            fd_limit=1_048_576,
            fd_share=1.0,
            cause=sample_pb2.CAUSE_STALLED_READER,
            stuck=1_230,
            fd_forecast=AHEAD,
            ports_share=0.987,
            close_wait_age=sample_pb2.SocketAges(p50_seconds=7_300, p99_seconds=90_000, max_seconds=1e9),
            fd_limit_hard=2**64 - 1,
            sockets=51_234,
        ),
    )


def known_app(name: str = "gateway.service") -> Row:
    """A row of an application with everything known."""
    return app_row(
        1,
        pb.AppRank(
            app=name,
            hosts=1_000,
            processes=16_000,
            close_wait=trend(),
            time_wait=VOLUME,
            established=9,
            fd_share=1.0,
            cause=sample_pb2.CAUSE_STALLED_READER,
            stuck=1_230,
            fd_forecast=AHEAD,
            ports_share=0.987,
        ),
    )


def known_group(name: str = "web") -> Row:
    """A row of a group of hosts with everything known."""
    return group_row(
        1,
        pb.GroupRank(
            value=name,
            hosts=1_000,
            silent_hosts=100,
            close_wait=trend(),
            time_wait=VOLUME,
            established=9,
            fd_share=1.0,
            cause=sample_pb2.CAUSE_STALLED_READER,
            stuck=1_230,
            fd_forecast=AHEAD,
            ports_share=0.987,
        ),
    )


KINDS = [
    pytest.param(HOSTS, known_host, id="hosts"),
    pytest.param(PROCESSES, known_process, id="processes"),
    pytest.param(HOST_PROCESSES, known_process, id="processes of a host"),
    pytest.param(APPS, known_app, id="apps"),
    pytest.param(GROUPS, known_group, id="groups"),
]


def printed(columns: Sequence[Column], rows: Sequence[Row], width: int = 80, wide: bool = False) -> list[str]:
    """The lines of a table, on a terminal that understands colours."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=True, color_system=None)
    console.print(table(columns, rows, wide))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("columns", "row"), KINDS)
@pytest.mark.parametrize(
    "name",
    ["a", "a-very-long-name.of-a-host.in-some-data-centre.example.org", HOSTILE, "宽字符" * 40, "[red]"],
)
def test_every_ranking_fits_80_columns(columns: Sequence[Column], row: Any, name: str) -> None:
    """Each row on one line, whatever the names are."""
    lines = printed(columns, [row(name)] * 3)
    assert len(lines) == 4
    assert max(cell_len(line) for line in lines) <= 80


@pytest.mark.parametrize(("columns", "row"), KINDS)
def test_a_name_can_do_nothing_to_the_terminal(columns: Sequence[Column], row: Any) -> None:
    """Escape sequences, line ends and overrides of direction are written out; markup is text."""
    text = "\n".join(printed(columns, [row(HOSTILE)], width=2_000, wide=True))
    for character in ("\x1b", "\x07", "\r", "\u202e"):
        assert character not in text
    assert r"\x1b[31m\x1b]0;title\x07[red]bold[/red] \u202eevil\r\n" in text
    assert text.count("\n") == 1


def test_markup_in_a_name_is_shown_literally() -> None:
    """A host may be called [red]."""
    assert "[red]" in printed(HOSTS, [known_host("[red]")])[1].split()


def test_numbers_are_aligned_to_the_right_under_their_titles() -> None:
    """The last digit stands under the last letter."""
    small, large = known_host("a"), known_host("b")
    small |= {"close_wait": 7, "close_wait_growth_per_hour": -0.5}
    title, *lines = printed(HOSTS, [small, large])
    for name, values in (("CLOSE_WAIT", ("7", "1,234")), ("GROWTH/h", ("-0.5", "+12,346"))):
        end = title.index(name) + len(name)
        for line, value in zip(lines, values, strict=True):
            assert line[:end].endswith(value)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (HOSTS, host_row(1, pb.HostRank())),
        (PROCESSES, process_row(1, pb.ProcessRank())),
        (APPS, app_row(1, pb.AppRank())),
        (GROUPS, group_row(1, pb.GroupRank())),
    ],
)
def test_the_unknown_is_a_dash(columns: Sequence[Column], row: Row) -> None:
    """Never a zero."""
    for column in columns:
        if row[column.key] is None:
            assert column.write(None) == "-"
    line = printed(columns, [row])[1].split()
    assert line.count("-") >= 4


def test_zero_is_a_zero() -> None:
    """Never a dash."""
    host = pb.HostRank(hostname="web-1", close_wait=pb.CloseWaitTrend(current=0, growth_per_hour=0), fd_share=0)
    assert printed(HOSTS, [host_row(1, host)])[1].split() == ["1", "web-1", "0", "0", "-", "-", "-", "-", "0.0"]


@pytest.mark.parametrize(("columns", "row"), KINDS)
def test_a_ranking_by_time_wait_fits_80_columns(columns: Sequence[Column], row: Any) -> None:
    """TIME_WAIT takes the place of the growth of CLOSE_WAIT, and both are in the wide table."""
    title, line = printed(by_measure(columns, "time-wait"), [row("web-1")])
    assert {"TIME_WAIT", "TW-MEAN", "TW-MAX"} < set(title.split())
    assert not {"GROWTH/h", "r²", "TREND"} & set(title.split())
    assert {"28,000", "27,123", "28,231"} < set(line.split())
    assert max(cell_len(one) for one in (title, line)) <= 80
    wide = printed(by_measure(columns, "time-wait"), [row("web-1")], 300, wide=True)[0]
    assert {"TW-MEAN", "GROWTH/h"} < set(wide.split())


@pytest.mark.parametrize(("columns", "row"), KINDS)
@pytest.mark.parametrize(
    ("by", "titles"),
    [
        ("close-wait-growth", {"GROWTH/h", "TREND"}),
        ("stuck", {"STUCK"}),
        ("fd-eta", {"FD-ETA", "FD%"}),
        ("ports", {"PORTS%"}),
        ("time-wait-max", {"TW-MAX"}),
    ],
)
def test_every_measure_fits_80_columns_with_its_own_figures_and_the_cause(
    columns: Sequence[Column], row: Any, by: str, titles: set[str]
) -> None:
    """The cause is never cut, whatever the names are."""
    lines = printed(by_measure(columns, by), [row(HOSTILE)] * 2)
    assert titles | {"CAUSE", "CLOSE_WAIT"} <= set(lines[0].split())
    assert len(lines) == 3
    assert max(cell_len(line) for line in lines) <= 80
    assert all("stalled_reader" in line for line in lines[1:])


@pytest.mark.parametrize(("columns", "row"), KINDS)
def test_the_wide_table_fits_its_width(columns: Sequence[Column], row: Any) -> None:
    """With everything known of a process, and names of some length."""
    lines = printed(columns, [row("a-host-of-some-name")], 300, wide=True)
    assert {"STUCK", "FD-ETA", "ETA-MIN", "ETA-MAX", "FDS+/h", "PORTS%"} <= set(lines[0].split())
    assert max(cell_len(line) for line in lines) <= 300
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(None, "-"), (0, "0s"), (59.6, "1m"), (7_300, "2h 1m"), (90_000, "1d 1h"), (366 * 86_400, ">1y"), (1e308, ">1y")],
)
def test_durations_end_at_a_year(seconds: float | None, written: str) -> None:
    """Nobody plans by a figure of many years."""
    assert cells.duration(seconds) == written


def test_the_largest_limit_is_none() -> None:
    """RLIM_INFINITY."""
    assert (cells.limit(2**64 - 1), cells.limit(1_024), cells.limit(None)) == ("none", "1,024", "-")


def test_rates_have_tenths_where_they_are_small() -> None:
    """Closes per second, say."""
    assert (cells.rate(None), cells.rate(0.25), cells.rate(1_234.5)) == ("-", "0.2", "1,234")
    assert cells.rate(1e308) == "1e+308"


def test_the_wide_table_has_every_column() -> None:
    """And the narrow one those that are not marked as wide."""
    narrow, wide = printed(HOSTS, [known_host()])[0], printed(HOSTS, [known_host()], 300, wide=True)[0]
    for column in HOSTS:
        assert column.title in wide
        assert (f" {column.title} " in f" {narrow} ") is not column.wide_only


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "-"), (0, "0"), (7, "7"), (1234567, "1,234,567"), (0.4, "0"), (1234.6, "1,235")],
)
def test_counts_have_separators(value: float | None, written: str) -> None:
    """A mean is shown as a whole number."""
    assert cells.count(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (0, "0"),
        (0.04, "0"),
        (-0.04, "0"),
        (0.06, "+0.1"),
        (-1.25, "-1.2"),
        (9.94, "+9.9"),
        (10, "+10"),
        (-1234.5, "-1,234"),
        (56789.9, "+56,790"),
    ],
)
def test_growth_has_a_sign_and_tenths_where_it_is_small(value: float | None, written: str) -> None:
    """What rounds to nothing has none."""
    assert cells.growth(value) == written


def test_shares_and_fits_are_rounded() -> None:
    """A share is in per cent, a fit has two places."""
    assert (cells.percent(None), cells.percent(0.1234), cells.percent(1)) == ("-", "12.3", "100.0")
    assert (cells.fit(None), cells.fit(0.987), cells.fit(1)) == ("-", "0.99", "1.00")


def test_a_text_that_is_empty_is_unknown() -> None:
    """A user that could not be read."""
    assert (cells.text(None), cells.text(""), cells.text("0"), cells.text(0)) == ("-", "-", "0", "0")


@pytest.mark.parametrize(
    ("values", "width", "written"),
    [
        ([], 10, ""),
        ([None, None], 2, "  "),
        ([0, 0], 2, "▁▁"),
        ([0, 7], 2, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([7, 1, None, 2, None, None], 3, "█▃ "),
        ([5], 10, "█"),
    ],
)
def test_a_trend_is_drawn_from_zero_to_its_maximum(values: list[float | None], width: int, written: str) -> None:
    """Neighbours share a bar, which shows the larger; a blank where there was no sample."""
    assert cells.sparkline(values, width) == written


def test_states_are_named_as_ss_names_them_and_none_is_left_out() -> None:
    """Unknown is a dash, zero a zero."""
    assert set(STATE_NAMES) == {field.name for field in sample_pb2.TcpStateCounts.DESCRIPTOR.fields}
    out = io.StringIO()
    Console(file=out, width=80).print(states_table(sample_pb2.TcpStateCounts(close_wait=1_234, listen=0)))
    words = out.getvalue().split()
    assert words[words.index("CLOSE_WAIT") + 1] == "1,234"
    assert words[words.index("LISTEN") + 1] == "0"
    assert words[words.index("ESTAB") + 1] == "-"
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_coverage_is_said_in_a_sentence() -> None:
    """What was not read is named; what was read is not."""
    whole = pb.FleetCoverage(hosts=1_200, hosts_reporting=1_199, sockets_attributed=5_000)
    assert coverage_line(whole) == "1,199 of 1,200 hosts reporting; 5,000 of 5,000 sockets charged"
    part = pb.FleetCoverage(
        hosts=2,
        hosts_reporting=2,
        sockets_attributed=4,
        sockets_unattributed=1,
        processes_unreadable=3,
        namespaces_unread=2,
        namespaces_by_procfs=4,
        hosts_unknown=1,
    )
    assert coverage_line(part) == (
        "2 of 2 hosts reporting; 4 of 5 sockets charged; processes unreadable: 3; namespaces unread: 2; "
        "namespaces read by procfs: 4; hosts with gaps unknown: 1"
    )


def test_the_keys_of_a_host_are_those_that_scripts_rely_on() -> None:
    """In this order."""
    assert list(known_host()) == [
        "rank",
        "host",
        "host_id",
        "close_wait",
        "close_wait_growth_per_hour",
        "close_wait_growth_fit",
        "close_wait_max",
        "close_wait_trend",
        "samples",
        "time_wait",
        "time_wait_mean",
        "time_wait_max",
        "time_wait_overflows",
        "established",
        "fd_allocated",
        "fd_limit",
        "fd_share",
        "cause",
        "stuck",
        "fd_eta_seconds",
        "fd_eta_earliest_seconds",
        "fd_eta_latest_seconds",
        "fd_growth_per_hour",
        "fd_growth_close_wait_share",
        "ports_share",
        "silent",
        "last_report",
        "labels",
    ]


def test_the_keys_of_a_process_are_those_that_scripts_rely_on() -> None:
    """In this order."""
    assert list(known_process()) == [
        "rank",
        "host",
        "host_id",
        "pid",
        "start_time",
        "name",
        "app",
        "user",
        "close_wait",
        "close_wait_growth_per_hour",
        "close_wait_growth_fit",
        "close_wait_max",
        "close_wait_trend",
        "samples",
        "time_wait",
        "time_wait_mean",
        "time_wait_max",
        "established",
        "fd_open",
        "fd_limit",
        "fd_limit_hard",
        "fd_share",
        "sockets",
        "cause",
        "stuck",
        "fd_eta_seconds",
        "fd_eta_earliest_seconds",
        "fd_eta_latest_seconds",
        "fd_growth_per_hour",
        "fd_growth_close_wait_share",
        "ports_share",
        "close_wait_age_seconds",
        "silent",
        "last_sample",
    ]


def test_the_keys_of_an_app_are_those_that_scripts_rely_on() -> None:
    """In this order."""
    assert list(known_app()) == [
        "rank",
        "app",
        "hosts",
        "processes",
        "close_wait",
        "close_wait_growth_per_hour",
        "close_wait_growth_fit",
        "close_wait_max",
        "close_wait_trend",
        "samples",
        "time_wait",
        "time_wait_mean",
        "time_wait_max",
        "established",
        "fd_share",
        "cause",
        "stuck",
        "fd_eta_seconds",
        "fd_eta_earliest_seconds",
        "fd_eta_latest_seconds",
        "fd_growth_per_hour",
        "fd_growth_close_wait_share",
        "ports_share",
    ]


def test_the_keys_of_a_group_are_those_that_scripts_rely_on() -> None:
    """Those of an application, but for what it is of. Hosts without the label have no group, which is null."""
    of_an_app = [key for key in known_app() if key not in ("app", "processes")]
    assert list(known_group()) == ["rank", "group", "hosts", "silent_hosts", *of_an_app[2:]]
    assert (known_group("")["group"], group_row(1, pb.GroupRank())["group"]) == ("", None)


def test_the_labels_of_a_host_are_in_its_wide_table() -> None:
    """By their names."""
    assert printed(HOSTS, [known_host()], width=400, wide=True)[1].rstrip().endswith(" role=web-1, zone=-")
    assert "LABELS" not in printed(HOSTS, [known_host()])[0]


def test_json_has_numbers_as_numbers_and_the_unknown_as_null() -> None:
    """And round-trips, hostile names included."""
    rows = [known_host(HOSTILE), host_row(2, pb.HostRank(hostname="web-2"))]
    text = as_json(rows)
    assert json.loads(text) == rows
    assert "\x1b" not in text
    first, second = json.loads(text)
    assert (first["close_wait"], first["time_wait"], first["silent"]) == (1_234, 28_000, False)
    assert (second["close_wait"], second["close_wait_growth_per_hour"], second["time_wait"]) == (None, None, None)
    assert len(as_json(rows, compact=True).splitlines()) == 1


def test_times_are_rfc_3339_in_utc() -> None:
    """To the millisecond, also where it is zero."""
    assert time(stamp(NOW)) == "2027-01-15T08:00:00.000Z"
    assert time(stamp(NOW + 42)) == "2027-01-15T08:00:00.042Z"
    assert time(Timestamp()) == "1970-01-01T00:00:00.000Z"


def test_csv_has_a_header_and_no_lists() -> None:
    """Unknown is an empty cell, and rows end as RFC 4180 has it."""
    row = host_row(1, pb.HostRank(hostname="web-1", silent=True, close_wait=pb.CloseWaitTrend(current=0)))
    text = as_csv([row], csv_columns(row))
    assert text.endswith("\r\n")
    (read,) = csv.DictReader(io.StringIO(text, newline=""))
    assert "close_wait_trend" not in read
    assert (read["host"], read["close_wait"], read["time_wait"], read["silent"]) == ("web-1", "0", "", "true")


def test_csv_keeps_names_with_commas_quotes_and_line_ends() -> None:
    """They come back as they were."""
    for name in ('a,"b"', "a\r\nb", "a;b"):
        text = as_csv([{"host": name}], ["host"])
        assert list(csv.reader(io.StringIO(text, newline=""))) == [["host"], [printable(name)]]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff20"])
def test_csv_has_no_formulas(start: str) -> None:
    """A spreadsheet takes a name that begins so for text; numbers stay numbers."""
    text = as_csv([{"host": start + "cmd|' /C calc'!A0", "growth": -1.5}], ["host", "growth"])
    _, (host, growth) = csv.reader(io.StringIO(text, newline=""))
    assert host == "'" + printable(start) + "cmd|' /C calc'!A0"
    assert growth == "-1.5"


def test_csv_has_no_formulas_where_a_semicolon_begins_a_cell() -> None:
    """As a spreadsheet has it in countries that write decimals with a comma."""
    text = as_csv([{"host": "a;=cmd|' /C calc'!A0;-1;b"}], ["host"])
    assert list(csv.reader(io.StringIO(text, newline="")))[1] == ["a;'=cmd|' /C calc'!A0;'-1;b"]


def test_optional_fields_tell_absent_from_zero() -> None:
    """A field without presence has its value."""
    found = optional_fields(sample_pb2.Coverage(processes=0))
    assert found["processes"] == 0
    assert found["sockets_attributed"] is None
    assert found["dump_torn"] is False


def test_coverage_as_a_row_has_every_field() -> None:
    """By the names of the message."""
    assert optional_fields(pb.FleetCoverage(hosts=3))["hosts"] == 3
    assert len(optional_fields(pb.FleetCoverage())) == len(pb.FleetCoverage.DESCRIPTOR.fields)
