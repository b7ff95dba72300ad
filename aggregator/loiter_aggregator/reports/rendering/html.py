"""A report as a page of HTML that needs nothing else, and as the HTML part of an e-mail. By the templates beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.charts import Chart, as_svg, charts
from loiter_aggregator.reports.rendering.terms import terms

_TEMPLATES: Final = Path(__file__).parent / "templates"
_TILES: Final = ("new", "worse", "resolved")


def page(report: pb.FleetReport) -> str:
    """The page, with its charts as SVG."""
    drawn = [(chart.name, chart.heading, _svg(chart)) for chart in charts(report)]
    return _render("report.html", report, charts=drawn, terms=terms(report, tables=True))


def mail(report: pb.FleetReport, pictures: Mapping[str, str]) -> str:
    """The HTML part of an e-mail. `pictures` says by the name of a chart which part it is (Content-ID)."""
    drawn = [(chart, pictures[chart.name]) for chart in charts(report) if chart.name in pictures]
    return _render("mail.html", report, charts=drawn, terms=terms(report, tables=False))


def _svg(chart: Chart) -> Markup:
    return Markup(as_svg(chart))  # noqa: S704 - drawn by us; no name of anybody's is in it


def _render(template: str, report: pb.FleetReport, **more: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    counts = view.tally(report)
    compared = report.HasField("compared_time")
    return environment.get_template(template).render(
        title=view.title(report),
        headline=view.headline(report),
        period=view.period(report),
        comparison=view.comparison(report),
        of_hosts=view.of_hosts(report),
        notice=view.notice(report),
        before_when=view.before_when(report),
        tiles=_tiles(counts, compared),
        breaching=view.breaching(report),
        sections=view.sections(report),
        rankings=[ranking for ranking in view.rankings(report) if ranking.rows],
        causes=view.causes(report),
        coverage=view.coverage(report),
        silent=[(printable(one.hostname), view.moment(one.last_report_time)) for one in report.silent_hosts],
        url=report.url,
        version=printable(report.version),
        write=lambda column, row: column.write(row[column.key]),
        **more,
    )


def _tiles(counts: Mapping[str, int], compared: bool) -> Sequence[tuple[str, int]]:
    return [(name, counts[name]) for name in _TILES] if compared else [(view.NO_CHANGE, counts[view.NO_CHANGE])]
