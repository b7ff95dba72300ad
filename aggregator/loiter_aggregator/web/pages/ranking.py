"""The rankings: the worst hosts, processes, applications and groups of hosts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from loiter.limits import MAX_RANKING_ROWS
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.output.data import as_csv, as_json, csv_columns
from loiter_aggregator.output.tables import coverage_line
from loiter_aggregator.output.words import CAUSE_MEANS, COLUMN_MEANS
from loiter_aggregator.queries import CAUSES, MEASURES
from loiter_aggregator.rankings import GROUPED, KINDS, Kind, groups_by, nobody_owns
from loiter_aggregator.web.address import (
    WINDOWS,
    Address,
    Span,
    address_of,
    fixed_to_now,
    patience,
    read_labels,
    read_number,
    read_span,
)
from loiter_aggregator.web.answer_cache import Seen
from loiter_aggregator.web.making import MAX_ROWS, make
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.first_steps import first_steps
from loiter_aggregator.web.views.pulse import pulse_of
from loiter_aggregator.web.views.tables import SORTS, ranking_table

DEFAULT_BY: Final = "close-wait-growth"
_DEFAULT_LIMIT: Final = 20
_LIMITS: Final = (20, 50, 100, MAX_ROWS)
_PARAMETERS: Final = (
    "by",
    "window",
    "until",
    "label",
    "app",
    "match",
    "cause",
    "limit",
    "group_by",
    "wide",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address of a ranking asks for."""

    what: str
    span: Span
    by: str
    labels: dict[str, str]
    app: str
    match: str
    cause: str
    limit: int
    group_by: str
    wide: bool

    @property
    def kind(self) -> Kind:
        """What is ranked."""
        return groups_by(self.group_by) if self.what == GROUPED else KINDS[self.what]

    @property
    def query(self) -> pb.RankingQuery:
        """The same as a question."""
        return pb.RankingQuery(
            by=MEASURES[self.by],
            window=self.span.window,
            limit=self.limit,
            labels=self.labels,
            end_time=self.span.end_time,
            app=self.app,
            contains=self.match,
            cause=CAUSES.get(self.cause, sample_pb2.CAUSE_UNSPECIFIED),
        )

    @property
    def filtered(self) -> bool:
        """Whether there may be more without what is asked for."""
        return bool(self.labels or self.app or self.match or self.cause)


def read_asked(request: Request) -> Asked:
    """Reads the address of a ranking. Raises InvalidRequest, HTTPException."""
    what, query = request.path_params["what"], request.query_params
    if what != GROUPED and what not in KINDS:
        raise HTTPException(404)
    by, cause = query.get("by") or DEFAULT_BY, query.get("cause", "")
    if by not in MEASURES:
        raise InvalidRequest(f"by: {by!r} is no measure; there are {', '.join(MEASURES)}")
    if cause and cause not in CAUSES:
        raise InvalidRequest(f"cause: {cause!r} is no cause; there are {', '.join(CAUSES)}")
    return Asked(
        what,
        read_span(query),
        by,
        read_labels(query),
        query.get("app", ""),
        query.get("match", ""),
        cause,
        read_number(query, "limit", 1, MAX_RANKING_ROWS, _DEFAULT_LIMIT),
        query.get("group_by", ""),
        query.get("wide") == "1",
    )


async def ranking(request: Request) -> Response:
    """Shows a ranking; of the rows that are asked for, those that a page has room for."""
    asked = read_asked(request)
    asked = replace(asked, limit=min(asked.limit, MAX_ROWS))
    address = address_of(request, _PARAMETERS)
    if asked.what == GROUPED and not asked.group_by:
        return await _choose_label(request, asked, address)
    seen = await _ask(request, asked, patience(request))
    answer = seen.answer if seen.loading else seen.need()
    pulse = pulse_of(seen)

    def page() -> Response:
        rows = [] if answer is None else asked.kind.rows(answer)
        return render(
            request,
            "ranking.html",
            _frame(asked, address)
            | {
                "pulse": pulse,
                "table": ranking_table(asked.what, rows, asked.by, asked.span, wide=asked.wide, here=asked.group_by),
                "coverage": None if answer is None else coverage_line(answer.coverage),
                "hosts": None if answer is None else answer.coverage.hosts,
                "fixed": fixed_to_now(request, address, asked.span),
                "nobody_owns": nobody_owns(rows, asked.by),
                "first": first_steps(request.app.state.settings),
            },
        )

    return await make(request, asked.limit, page)


def _frame(asked: Asked, address: Address) -> dict[str, Any]:
    return {
        "asked": asked,
        "address": address,
        "kinds": {kind.name: kind.title for kind in (*KINDS.values(), groups_by(""))},
        "sorts": SORTS,
        "means": COLUMN_MEANS,
        "measures": tuple(MEASURES),
        "causes": CAUSE_MEANS,
        "windows": WINDOWS if asked.span.text in WINDOWS else (asked.span.text, *WINDOWS),
        "limits": _LIMITS if asked.limit in _LIMITS else (asked.limit, *_LIMITS),
        "span": asked.span,
    }


async def _choose_label(request: Request, asked: Asked, address: Address) -> Response:
    """Groups are of a label: asks which. What there are stands in the aggregator's own words."""
    seen = await _ask(request, asked, patience(request))
    return render(
        request,
        "groups.html",
        _frame(asked, address)
        | {"pulse": pulse_of(seen), "told": str(seen.error or "").removeprefix("label is missing; "), "fixed": ""},
    )


async def _ask(request: Request, asked: Asked, wait: float | None) -> Seen[Any]:
    state = request.app.state
    method = getattr(state.reading.fleet, f"rank_{asked.what}")
    seen: Seen[Any] = await state.answers.ask(method, asked.kind.question(asked.query), wait=wait)
    return seen


async def download(request: Request) -> Response:
    """Sends a ranking as a file, as `loiter top` writes it with `-o csv` and `-o json`."""
    form = request.path_params["form"]
    if form not in ("csv", "json"):
        raise HTTPException(404)
    asked = read_asked(request)
    answer = (await _ask(request, asked, wait=None)).need()
    kind = asked.kind

    def file() -> Response:
        rows = kind.rows(answer)
        return Response(
            as_json(rows) if form == "json" else as_csv(rows, csv_columns(kind.empty)),
            media_type="application/json" if form == "json" else "text/csv; charset=utf-8",
            headers={"content-disposition": f'attachment; filename="loiter-{asked.what}.{form}"'},
        )

    return await make(request, asked.limit, file)
