"""Forecasts when processes run out of file descriptors: what is left of their soft limit, over the growth.

The growth is the slope b of an ordinary least-squares line through the open descriptors of the window. With e the
residuals of n samples, its standard error is s = √(Σe² / (n - 2)) / √S(tt), and b ± q·s its 95 % confidence interval, q
being the 0.975 quantile of Student's t with n - 2 degrees of freedom. The samples are taken for independent of each
other. There is no forecast with fewer than three samples, where the lower end of the interval is no growth, and where
there is no limit.

Nor is there one where the growth is over, as after a ramp at start-up: the line through all of the window is sure of
itself for long after. So the line through the last third of the series, by time, has to rise, too; with ten samples in
that third or more, the lower end of its own interval has to be above zero.

A process that has as many descriptors open as its limit allows, or more, has no time left, however that came to be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loiter_aggregator.ranking.present import SERIES, latest_samples
from loiter_aggregator.ranking.query import GROUP_OF, Ranking, among, label_parameters
from loiter_aggregator.store.question import Reader

# RLIM_INFINITY is 2^64 - 1 (getrlimit(2)); no kernel has room for as many descriptors as half of that.
_UNLIMITED: Final = 2**63
# From so many samples on, the last third of a series has to rise beyond doubt.
_ENOUGH: Final = 10
_FEW_HOSTS: Final = 100

# From six degrees of freedom on, the quantile by its expansion around that of the normal distribution, z: Abramowitz
# and Stegun, 26.7.5. It is off by less than 0.002 there. Below, by table.
_QUANTILES: Final = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
QUANTILE: Final = (
    f"CASE n - 2 {' '.join(f'WHEN {freedom} THEN {q}' for freedom, q in _QUANTILES.items())} "
    "ELSE 1.95996 + (2.37227 + (2.8225 + 2.55585 / (n - 2)) / (n - 2)) / (n - 2) END"
)

_SUMS: Final = """
    count(*) AS n, sum(t) AS st, sum(t * t) AS stt, sum(y) AS sy, sum(t * y) AS sty, sum(y * y) AS syy,
    min(y) AS y_min, max(y) AS y_max"""
# Of a count that does not vary, exactly nothing: sums of large numbers leave a rest.
_SLOPE: Final = "CASE WHEN y_min = y_max THEN 0 ELSE (n * sty - st * sy) / (n * stt - st * st) END"
_ERROR: Final = """
    sqrt(greatest(0, n * syy - sy * sy - (n * sty - st * sy) * (n * sty - st * sy) / (n * stt - st * st))
        / ((n - 2) * (n * stt - st * st)))"""
_CLOSE_WAIT_SHARE: Final = """
    CASE WHEN close_wait_slope IS NOT NULL THEN least(1, greatest(0, close_wait_slope / slope)) END"""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a process has no file descriptors left; see the message FdForecast.

    There is no growth, and no interval, where none is left already and there are fewer than three samples.
    """

    seconds: float
    earliest_seconds: float | None
    latest_seconds: float | None
    growth_per_hour: float | None
    close_wait_share: float | None


def forecasts(ranking: Ranking, host_keys: Collection[int] | None = None, processes: str = "") -> str:
    """The relation of the processes in their host's latest sample that have a forecast.

    Only of some hosts where their keys are given; `processes` is a further condition on the rows of process_sample,
    with AND before it. Columns: those of SERIES, `identity_key`, `fd_eta`, and `forecast`, which holds the fields of
    Forecast in their order.
    """
    hosts = "" if host_keys is None else f" AND {among('host_key', host_keys)}"
    only = f"{ranking.within}{hosts}{processes}"
    series = SERIES
    # The points are read twice. To keep those of many hosts for that takes more memory, and more time, than to do so.
    kept = "MATERIALIZED" if host_keys is not None and len(host_keys) <= _FEW_HOSTS else "NOT MATERIALIZED"
    return f"""
        WITH fd_hosts AS ({latest_samples(ranking, hosts)}),
        -- A limit does not change with time, as a rule: that of the latest sample is the largest or the only one.
        fd_newest AS (
            SELECT {series}, max(identity_key) AS identity_key, max(fd_open) AS fd_open, max(fd_limit) AS fd_limit
            FROM process_sample JOIN fd_hosts USING (host_key)
            WHERE ts = latest AND fd_open IS NOT NULL AND fd_limit < {_UNLIMITED} AND {only} GROUP BY {series}),
        fd_points AS {kept} (
            SELECT {series}, (ts - $now) / 1000.0 AS t, CAST(fd_open AS DOUBLE) AS y,
                CAST(close_wait AS DOUBLE) AS close_wait
            FROM process_sample WHERE {only} AND fd_open IS NOT NULL),
        fd_sums AS (
            SELECT {series}, {_SUMS}, max(t) - (max(t) - min(t)) / 3 AS last_third,
                count(close_wait) AS close_wait_n, sum(close_wait) AS close_wait_sy,
                sum(t * close_wait) AS close_wait_sty
            FROM fd_points GROUP BY {series}),
        fd_lines AS (
            SELECT *, {_SLOPE} AS slope, {_ERROR} AS error,
                CASE WHEN close_wait_n = n
                    THEN (n * close_wait_sty - st * close_wait_sy) / (n * stt - st * st) END AS close_wait_slope
            FROM fd_sums WHERE n > 2 AND n * stt - st * st > 0),
        fd_intervals AS (SELECT *, {QUANTILE} * error AS half FROM fd_lines),
        fd_rising AS (SELECT * FROM fd_intervals WHERE slope > half AND slope > 0),
        -- Few are left by now: only of these the samples are read a second time.
        fd_thirds AS (
            SELECT {series}, {_SUMS} FROM fd_points JOIN (SELECT {series}, last_third FROM fd_rising) AS rising
                USING ({series})
            WHERE t >= last_third GROUP BY {series}),
        fd_over AS (
            SELECT {series} FROM (
                SELECT *, {_SLOPE} AS slope, CASE WHEN n >= {_ENOUGH} THEN {QUANTILE} * {_ERROR} ELSE 0 END AS half
                FROM fd_thirds WHERE n > 1 AND n * stt - st * st > 0) AS third_lines
            WHERE slope <= half OR slope <= 0)
        SELECT {series}, identity_key, 0.0 AS fd_eta,
            row(0.0, CASE WHEN slope IS NOT NULL THEN 0.0 END, CASE WHEN slope IS NOT NULL THEN 0.0 END, 3600 * slope,
                CASE WHEN slope > half THEN {_CLOSE_WAIT_SHARE} END) AS forecast
        FROM fd_newest LEFT JOIN fd_intervals USING ({series}) WHERE fd_open >= fd_limit
        UNION ALL
        SELECT {series}, identity_key, spare / slope AS fd_eta,
            row(spare / slope, spare / (slope + half), spare / (slope - half), 3600 * slope, {_CLOSE_WAIT_SHARE})
                AS forecast
        FROM (
            SELECT *, CAST(fd_limit - fd_open AS DOUBLE) AS spare
            FROM fd_rising JOIN fd_newest USING ({series})
            WHERE fd_open < fd_limit AND ({series}) NOT IN (SELECT ({series}) FROM fd_over)) AS fd_left"""


def forecast_join(ranking: Ranking, by: str) -> str:
    """Joins the least `fd_eta` of each `by` to a ranking that is by it, and nothing to any other."""
    if ranking.by != "fd_eta":
        return ""
    names = " JOIN identity USING (identity_key)" if by == "app" else ""
    return f"""
        LEFT JOIN (SELECT {by}, min(fd_eta) AS fd_eta FROM ({forecasts(ranking)}) AS forecasts{names} GROUP BY {by})
            AS least USING ({by})"""


def process_forecasts(
    store: Reader, ranking: Ranking, series: Iterable[tuple[int, int, int]]
) -> dict[tuple[int, int, int], Forecast]:
    """Reads the forecasts of processes, by what names them in the store. Raises StoreError."""
    wanted = set(series)
    if not wanted:
        return {}
    # All processes of their hosts: to compare the whole key with each sample takes longer than what the others cost.
    found = _by_series(store, ranking, {host_key for host_key, _, _ in wanted})
    return {key: found[key] for key in wanted & found.keys()}


def forecasts_on_host(store: Reader, ranking: Ranking, host_key: int) -> dict[tuple[int, int, int], Forecast]:
    """Reads the forecasts of all processes of a host, by what names them in the store. Raises StoreError."""
    return _by_series(store, ranking, [host_key])


def first_to_run_out(found: Mapping[tuple[int, int, int], Forecast]) -> Forecast | None:
    """The forecast of the process that runs out first."""
    return min(found.values(), key=lambda one: one.seconds, default=None)


def host_forecasts(store: Reader, ranking: Ranking, host_keys: Iterable[int]) -> dict[int, Forecast]:
    """Reads the forecast of the process of each host that runs out first. Raises StoreError."""
    keys = set(host_keys)
    if not keys:
        return {}
    rows = store.read(
        f"SELECT host_key, arg_min(forecast, fd_eta) FROM ({forecasts(ranking, keys)}) AS forecasts GROUP BY host_key",
        _parameters(ranking),
    )
    return {key: _forecast(forecast) for key, forecast in rows}


def app_forecasts(store: Reader, ranking: Ranking, apps: Iterable[str]) -> dict[str, Forecast]:
    """Reads the forecast of the process of each application that runs out first. Raises StoreError."""
    named = {f"app{number}": app for number, app in enumerate(apps)}
    if not named:
        return {}
    names = ", ".join(f"${name}" for name in named)
    only = f" AND identity_key IN (SELECT identity_key FROM identity WHERE app IN ({names}))"
    rows = store.read(
        f"""
        SELECT app, arg_min(forecast, fd_eta)
        FROM ({forecasts(ranking, processes=only)}) AS forecasts JOIN identity USING (identity_key) GROUP BY app""",
        _parameters(ranking) | named,
    )
    return {app: _forecast(forecast) for app, forecast in rows}


def group_forecasts(store: Reader, ranking: Ranking, label: str) -> dict[str | None, Forecast]:
    """Reads the forecast of the process of each group of hosts that runs out first. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT value, arg_min(forecast, fd_eta)
        FROM ({forecasts(ranking)}) AS forecasts LEFT JOIN ({GROUP_OF}) AS members USING (host_key)
        GROUP BY value""",
        _parameters(ranking) | {"group_by": label},
    )
    return {value: _forecast(forecast) for value, forecast in rows}


def _by_series(store: Reader, ranking: Ranking, host_keys: Collection[int]) -> dict[tuple[int, int, int], Forecast]:
    rows = store.read(
        f"SELECT host_key, pid, start_time, forecast FROM ({forecasts(ranking, host_keys)}) AS forecasts",
        _parameters(ranking),
    )
    return {(host_key, pid, start): _forecast(forecast) for host_key, pid, start, forecast in rows}


def _parameters(ranking: Ranking) -> dict[str, Any]:
    return {"now": ranking.now} | label_parameters(ranking.labels)


def _forecast(values: Any) -> Forecast:
    return Forecast(*(values.values() if isinstance(values, dict) else values))
