"""When a process has no file descriptors left: what was, the limit, and the way there with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import value
from loiter_aggregator.web.views.charts import data_of, last_known, times_of, values_of

_UNLIMITED: Final = 2**63
# Farther than so many windows ahead, the past would be a stroke at the edge.
_WINDOWS_AHEAD: Final = 3.0
_PARTS_AHEAD: Final = 60


@dataclass(frozen=True, slots=True)
class ForecastChart:
    """What the script draws, and the same in words."""

    data: str
    words: str


def forecast_chart(history: pb.GetHistoryResponse, rank: pb.ProcessRank) -> ForecastChart | None:
    """Draws a process's descriptors against its limit; None where its descriptors are not known."""
    times, opened = times_of(history), values_of(history, "fd_open")
    current = last_known(opened)
    if current is None:
        return None
    limit = rank.fd_limit if rank.HasField("fd_limit") and rank.fd_limit < _UNLIMITED else None
    lines = {"open": opened}
    styles, band = ["line"], []
    ahead: list[int] = []
    if limit is not None and rank.HasField("fd_forecast") and rank.fd_forecast.seconds > 0:
        begin = times[-1]
        spans = [*_ends(rank.fd_forecast), rank.fd_forecast.seconds]
        farthest = min(1.05 * max(spans), _WINDOWS_AHEAD * (times[-1] - times[0]) / 1_000)
        ahead = [begin + round(1_000 * farthest * part / _PARTS_AHEAD) for part in range(1, _PARTS_AHEAD + 1)]
        names = ["earliest", "latest", "forecast"][-len(spans) :]
        for name, seconds in zip(names, spans, strict=True):
            before: list[float | None] = [None] * (len(times) - 1)
            lines[name] = before + [
                _on_the_way(current, limit, (moment - begin) / 1_000 / seconds) for moment in [begin, *ahead]
            ]
            styles.append("forecast" if name == "forecast" else "edge")
        band = [1, 2] if len(spans) == 3 else []
        lines["open"] = opened + [None] * len(ahead)
    if limit is not None and (ahead or 3 * current >= limit):
        lines["limit"] = [float(limit)] * (len(times) + len(ahead))
        styles.append("limit")
    return ForecastChart(data_of([*times, *ahead], lines, "count", styles, band), _words(rank, limit))


def _ends(forecast: pb.FdForecast) -> list[float]:
    earliest, latest = value(forecast, "earliest_seconds"), value(forecast, "latest_seconds")
    return [earliest, latest] if earliest and latest else []


def _on_the_way(current: float, limit: int, share: float) -> float | None:
    """Where the line is after a share of its way to the limit; it ends there."""
    return current + (limit - current) * share if share <= 1 else None


def _words(rank: pb.ProcessRank, limit: int | None) -> str:
    opened = cells.count(value(rank, "fd_open"))
    if limit is None:
        return f"{opened} open, without a limit."
    told = f"{opened} of {cells.count(limit)} open ({cells.percent(value(rank, 'fd_share'))} %)."
    if not rank.HasField("fd_forecast"):
        return f"{told} They do not grow beyond doubt: there is no forecast."
    ahead = rank.fd_forecast
    earliest, latest = value(ahead, "earliest_seconds"), value(ahead, "latest_seconds")
    if not ahead.seconds:
        return f"{told} None is left."
    told += f" At {cells.growth(ahead.growth_per_hour)} an hour they are used up in {cells.duration(ahead.seconds)}"
    ends = dict.fromkeys(cells.duration(end) for end in (earliest, latest) if end)
    between = f"{' to '.join(ends)} " if len(ends) > 1 else ""
    return f"{told} ({between}with 95 % confidence)." if latest else f"{told}."
