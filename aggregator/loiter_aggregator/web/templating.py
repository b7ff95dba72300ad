"""Makes pages of templates. Whatever a host said is made safe twice: for people's eyes, and for HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from loiter.text import printable
from loiter_aggregator import links
from loiter_aggregator.clock import from_timestamp
from loiter_aggregator.output import cells
from loiter_aggregator.web.address import moment
from loiter_aggregator.web.views.sparklines import sparkline
from loiter_aggregator.web.views.tables import measure_words
from loiter_aggregator.web.views.tags import row_id

_TEMPLATES: Final = Path(__file__).parent / "templates"


def _safe_to_show(value: object) -> object:
    # Markup is a str of its own kind: what templates have made of such values is left alone.
    return printable(value) if type(value) is str else value


def _stamp(stamp: Timestamp) -> str:
    return moment(from_timestamp(stamp))


def _share(value: float | None) -> str:
    return cells.UNKNOWN if value is None else f"{cells.percent(value)} %"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe_to_show,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": cells.count,
        "duration": cells.duration,
        "fit": cells.fit,
        "growth": cells.growth,
        "limit": cells.limit,
        "percent": cells.percent,
        "rate": cells.rate,
        "size": cells.size,
        "share": _share,
        "known": cells.text,
        "measure": measure_words,
        "moment": moment,
        "stamp": _stamp,
    }
    environment.globals |= {
        "sparkline": sparkline,
        "row_id": row_id,
        "fleet_page": links.fleet_page,
        "top_page": links.top_page,
        "host_page": links.host_page,
        "process_page": links.process_page,
        "app_page": links.app_page,
    }
    # Now, not when the first person waits for a page.
    for name in environment.list_templates(extensions=["html"]):
        environment.get_template(name)
    return environment


_environment_of_pages: Final = _environment()


def render(request: Request, name: str, context: Mapping[str, Any], status: int = 200) -> Response:
    """Makes the page of a template."""
    html = _environment_of_pages.get_template(name).render(
        static=request.app.state.static.url,
        viewer=getattr(request.state, "viewer", None),
        path=request.url.path,
        **context,
    )
    return HTMLResponse(html, status)
