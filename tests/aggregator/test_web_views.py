"""What pages make of answers: addresses, small trends, charts, forecasts, histograms of ages."""

from __future__ import annotations

import json
import math

import pytest
from starlette.datastructures import QueryParams

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.output.rows import host_row, process_row
from loiter_aggregator.output.words import CAUSE_MEANS, COLUMN_MEANS
from loiter_aggregator.queries import CAUSES
from loiter_aggregator.web.address import Address, read_labels, read_moment, read_number, read_span
from loiter_aggregator.web.views.ages import RANGE_WIDTH, age_range, histogram
from loiter_aggregator.web.views.charts import Figure, charts_of
from loiter_aggregator.web.views.first_steps import FirstSteps, first_steps
from loiter_aggregator.web.views.forecast import forecast_chart
from loiter_aggregator.web.views.sparklines import sparkline
from loiter_aggregator.web.views.tables import ranking_table
from support.reports import NOW, lasting, stamp

SPAN = read_span(QueryParams(""))


def _history(name: str, values: list[float | None], step_ms: int = 60_000) -> pb.GetHistoryResponse:
    known = [pb.HistoryValue(value=value) for value in values]
    return pb.GetHistoryResponse(
        start_time=stamp(NOW - step_ms * len(values)),
        step=lasting(step_ms),
        series=[pb.HistorySeries(name=name, values=known)],
    )


# Addresses.


def test_an_address_is_changed_in_one_parameter_and_keeps_the_others() -> None:
    """Those that are there several times, too; what is empty is left out."""
    address = Address("/top/hosts", (("label", "role=web"), ("label", "dc=a b"), ("by", "stuck")))
    assert address.but(by="ports") == "/top/hosts?label=role%3Dweb&label=dc%3Da+b&by=ports"
    assert address.but(by=None, window="") == "/top/hosts?label=role%3Dweb&label=dc%3Da+b"
    assert address.under("/top/hosts.csv").startswith("/top/hosts.csv?label=role%3Dweb&")


@pytest.mark.parametrize(
    "text", ["2026-11-23T05:00:00Z", "2026-11-23T06:00:00+01:00", "2026-11-23T06:00:00 01:00", "2026-11-23 05:00:00Z"]
)
def test_a_moment_is_read_in_whatever_zone_it_is_written(text: str) -> None:
    """A plus sign that a chat did not escape is a space by the time it arrives."""
    assert read_moment(text) == 1_795_410_000_000


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-11-23T05:00:00", "2026-13-01T00:00:00Z", "9999-12-31T23:59:59Z"]
)
def test_what_is_no_moment_is_refused_in_words(text: str) -> None:
    """With an example; a time without a zone is none."""
    with pytest.raises(InvalidRequest, match="write it as 2026"):
        read_moment(text)


@pytest.mark.parametrize("window", ["0s", "400d", "soon", "-1h", "1h" * 200])
def test_a_window_that_can_not_be_is_refused(window: str) -> None:
    """By the name of the parameter."""
    with pytest.raises(InvalidRequest, match=r"^window: "):
        read_span(QueryParams({"window": window}))


def test_labels_and_numbers_are_checked() -> None:
    """As on the command line."""
    assert read_labels(QueryParams("label=role%3Dweb&label=&label=dc%3Dfra1")) == {"role": "web", "dc": "fra1"}
    for query in ("label=role", "label=a%3D1&label=a%3D2", "label=b%20ad%3D1"):
        with pytest.raises(InvalidRequest, match=r"^label"):
            read_labels(QueryParams(query))
    for text in ("x", "0", "1001", "\u0661", "9" * 30):
        with pytest.raises(InvalidRequest, match=r"^limit"):
            read_number(QueryParams({"limit": text}), "limit", 1, 1_000, 20)


# Trends and charts.


def test_a_sparkline_has_a_gap_where_nothing_is_known() -> None:
    """And says in words what it shows."""
    drawn = sparkline([1.0, 2.0, None, None, 4.0])
    assert [len(line.split()) for line in drawn.lines] == [2, 2]
    assert drawn.words == "from 1 to 4, at most 4"
    assert sparkline([None, None]).lines == ()
    assert sparkline([0.0, 0.0]).lines != (), "zero is known"


def test_a_chart_keeps_gaps_and_its_table_says_so() -> None:
    """The latest value is that of the last parts that have one."""
    found = charts_of(_history("close_wait", [1.0, None, 3.0, None]), [Figure("close_wait", "CLOSE_WAIT")])
    (chart,) = found.charts
    data = json.loads(chart.data)
    assert data["lines"][0]["values"] == [1.0, None, 3.0, None]
    assert data["times"] == [NOW / 1_000 - 240 + 60 * part for part in range(4)]
    assert chart.shown == "3"
    assert [values for _, values in found.rows] == [("-",), ("3",), ("-",), ("1",)]


def test_a_long_history_has_a_table_that_can_be_read() -> None:
    """Each row has the most of the parts that it stands for."""
    values = [float(part % 7) for part in range(120)]
    found = charts_of(_history("close_wait", list(values)), [Figure("close_wait", "CLOSE_WAIT")])
    assert len(found.rows) == 24
    assert found.rows[-1][1] == (str(round(max(values[:5]))),)


def test_a_figure_of_which_nothing_is_known_is_not_drawn() -> None:
    """Nor is a history of nothing."""
    figures = [Figure("close_wait", "CLOSE_WAIT"), Figure("stuck", "stuck")]
    assert charts_of(_history("close_wait", [None, None]), figures).charts == ()
    assert charts_of(pb.GetHistoryResponse(), figures).charts == ()


# Forecasts.


def _rank(seconds: float | None, limit: int = 1_000) -> pb.ProcessRank:
    forecast = None
    if seconds is not None:
        forecast = pb.FdForecast(
            seconds=seconds, earliest_seconds=seconds / 2, latest_seconds=2 * seconds, growth_per_hour=600.0
        )
    return pb.ProcessRank(fd_open=500, fd_limit=limit, fd_share=0.5, fd_forecast=forecast)


def test_a_forecast_goes_from_the_latest_value_to_the_limit() -> None:
    """With its interval on both sides of it."""
    chart = forecast_chart(_history("fd_open", [480.0, 490.0, 500.0] * 20), _rank(3_000))
    assert chart is not None
    data = json.loads(chart.data)
    lines = {line["label"]: line["values"] for line in data["lines"]}
    assert lines["forecast"][59] == lines["earliest"][59] == lines["latest"][59] == 500.0
    assert all(value is None for value in lines["forecast"][:59])
    assert max(value for value in lines["forecast"] if value is not None) == pytest.approx(1_000, abs=20)
    assert set(lines["limit"]) == {1_000.0}
    assert [data["lines"][place]["label"] for place in data["band"]] == ["earliest", "latest"]
    assert len(data["times"]) == len(lines["open"]) == len(lines["latest"])
    assert "used up in 50m (25m to 1h 40m with 95 % confidence)" in chart.words


def test_what_does_not_grow_has_no_forecast_but_its_history() -> None:
    """The limit is drawn where the descriptors come near it: otherwise they would be a stroke at the bottom."""
    chart = forecast_chart(_history("fd_open", [500.0] * 10), _rank(None))
    assert chart is not None
    assert [line["label"] for line in json.loads(chart.data)["lines"]] == ["open", "limit"]
    assert "no forecast" in chart.words
    chart = forecast_chart(_history("fd_open", [500.0] * 10), _rank(None, limit=100_000))
    assert chart is not None
    assert [line["label"] for line in json.loads(chart.data)["lines"]] == ["open"]
    assert forecast_chart(_history("close_wait", [1.0]), _rank(None)) is None, "it is not known how many are open"


@pytest.mark.parametrize("limit", [2**63, 2**64 - 1])
def test_no_limit_is_no_line_at_the_top_of_the_sky(limit: int) -> None:
    """RLIM_INFINITY is none."""
    chart = forecast_chart(_history("fd_open", [500.0] * 10), _rank(None, limit=limit))
    assert chart is not None
    assert chart.words == "500 open, without a limit."


# Ages.


def test_ages_are_counted_in_bins_that_people_think_in() -> None:
    """An age on a bound is in the bin above it."""
    bins = histogram([0.0, 9.9, 10.0, 59.0, 60.0, 7_200.0])
    assert [(one.label, one.count) for one in bins] == [
        ("under 10s", 2),
        ("10s to 1m", 2),
        ("1m to 5m", 1),
        ("5m to 15m", 0),
        ("15m to 1h", 0),
        ("1h to 4h", 1),
    ]
    assert bins[0].share == 1.0
    assert histogram([]) == ()
    assert histogram([10 * 86_400.0])[-1].label == "1d and longer"


def test_sockets_that_are_not_listed_are_one_bin() -> None:
    """All that is known of them is that they are younger than those that are."""
    bins = histogram([400.0, 500.0, 1_000.0], younger=97)
    assert [(one.label, one.count) for one in bins] == [("under 6m 40s", 97), ("6m 40s to 15m", 2), ("15m to 1h", 1)]


def test_the_range_of_ages_stays_within_its_picture() -> None:
    """However long or short they are."""
    found = age_range(sample_pb2.SocketAges(p50_seconds=0.0, p99_seconds=60.0, max_seconds=math.inf))
    assert (found.p50, found.oldest) == (0.0, RANGE_WIDTH)
    assert 0 < found.p99 < RANGE_WIDTH


# Tables.


def test_a_row_keeps_its_name_wherever_it_ranks() -> None:
    """And a process that was started anew is another, so that focus stays with what it was on."""
    first = pb.ProcessRank(host_id="a", pid=7, start_time=stamp(NOW), app="shop")
    again = pb.ProcessRank(host_id="a", pid=7, start_time=stamp(NOW + 1_000), app="shop")
    ids = [
        ranking_table("processes", [process_row(rank, one)], "close-wait-growth", SPAN).lines[0].id
        for rank, one in ((1, first), (9, first), (1, again))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_ranking_shows_the_measure_that_it_is_by() -> None:
    """Whether or not it is among the columns that are always shown."""
    rows = [host_row(1, pb.HostRank(hostname="web1"))]
    for by, title in (("time-wait-max", "TW-MAX"), ("ports", "PORTS%"), ("fd-eta", "FD-ETA"), ("stuck", "STUCK")):
        assert title in [column.title for column in ranking_table("hosts", rows, by, SPAN).columns]
    assert len(ranking_table("hosts", rows, "ports", SPAN, wide=True).columns) > 15


def test_every_cause_has_a_meaning() -> None:
    """And no meaning is of a cause that is not there."""
    assert set(CAUSE_MEANS) == set(CAUSES)


def test_every_column_of_figures_has_a_meaning() -> None:
    """Names speak for themselves."""
    tables = (ranking_table(what, [], "ports", SPAN, wide=True) for what in ("hosts", "processes", "apps", "groups"))
    titles = {column.title for table in tables for column in table.columns}
    names = {"HOST", "PID", "APP", "NAME", "USER", "HOSTS", "GROUP", "SILENT", "STARTED", "LABELS", "LAST REPORT"}
    assert titles - set(COLUMN_MEANS) <= names


# What to type first.


@pytest.mark.parametrize(
    ("listen", "steps"),
    [
        ("127.0.0.1:7433", FirstSteps("AGGREGATOR:7433", "", True)),
        ("127.0.0.1:8000", FirstSteps("AGGREGATOR:8000", " --server 127.0.0.1:8000", True)),
        ("0.0.0.0:7433", FirstSteps("AGGREGATOR:7433", "", False)),
        ("[::]:8000", FirstSteps("AGGREGATOR:8000", " --server 127.0.0.1:8000", False)),
        ("loiter.example:7433", FirstSteps("loiter.example:7433", " --server loiter.example:7433", False)),
    ],
)
def test_an_agent_elsewhere_is_not_told_of_an_address_that_only_this_machine_has(
    listen: str, steps: FirstSteps
) -> None:
    """What agents of other hosts connect to, and one on this machine."""
    assert first_steps(AggregatorSettings(listen=listen)) == steps
