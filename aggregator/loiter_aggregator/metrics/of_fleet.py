"""Metrics of the fleet, of what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import from_timestamp
from loiter_aggregator.metrics.families import gauge, gauges
from loiter_aggregator.metrics.figures import Figures
from loiter_aggregator.metrics.label_values import label_values
from loiter_aggregator.output.rows import Row, app_row, cause_name, host_figures, optional_fields, value

# Of a host or an application: the end of the metric's name, the key of its row, and what it means. Of a host,
# descriptors in use are the file handles of its kernel; of an application, those of the fullest of its processes.
_OF_ROW: Final = (
    ("close_wait_sockets", "close_wait", "Sockets in CLOSE_WAIT at the latest sample"),
    ("close_wait_growth_per_hour", "close_wait_growth_per_hour", "Least-squares slope of CLOSE_WAIT, sockets per hour"),
    ("close_wait_growth_fit_ratio", "close_wait_growth_fit", "How well that line fits, r squared"),
    ("stuck_sockets", "stuck", "Sockets that have been in CLOSE_WAIT for over a minute"),
    ("time_wait_sockets", "time_wait", "Sockets in TIME_WAIT at the latest sample"),
    ("fd_used_ratio", "fd_share", "File descriptors in use over their limit"),
    ("fd_exhaustion_seconds", "fd_eta_seconds", "Time until a process has no file descriptors left"),
    ("ports_used_ratio", "ports_share", "Ephemeral ports in use of the fullest budget"),
)
_OF_HOSTS: Final = "of the worst hosts; absent where unknown."
_OF_APPS: Final = "of the worst applications, over their hosts; absent where unknown."
_ALERT_STATES: Final = {pb.ALERT_STATE_PENDING: "pending", pb.ALERT_STATE_FIRING: "firing"}


def families(figures: Figures, top: int, now: int) -> Iterator[Metric]:
    """The families; `top` bounds how many silent hosts are named, `now` is in milliseconds."""
    yield from _totals(figures)
    yield from _hosts(figures.hosts)
    yield _silent(figures.fleet.silent_hosts, top, now)
    yield from _apps(figures.apps)
    yield from _alerts(figures.alerts)
    yield from _reports(figures.reports)


def _totals(figures: Figures) -> Iterator[Metric]:
    fleet, coverage = figures.fleet, figures.fleet.coverage
    yield gauges(
        "loiter_fleet_sockets",
        "TCP sockets of the reporting hosts by state; absent where no host knows.",
        "state",
        optional_fields(fleet.tcp_states),
    )
    yield gauges(
        "loiter_fleet_hosts",
        "Hosts by whether they report.",
        "status",
        {"reporting": coverage.hosts_reporting, "silent": coverage.hosts_silent},
    )
    yield gauges(
        "loiter_fleet_impaired_hosts",
        "Hosts whose figures are impaired, and how; one host may be so in several ways.",
        "how",
        {
            "gaps_unknown": coverage.hosts_unknown,
            "degraded": coverage.hosts_degraded,
            "clock_skewed": coverage.hosts_skewed,
            "losing_samples": coverage.hosts_losing,
        },
    )
    for name, field, help_text in (
        ("sockets_charged", "sockets_attributed", "Sockets whose process is known."),
        ("sockets_uncharged", "sockets_unattributed", "Sockets whose process could not be found or read."),
        ("close_wait_uncharged", "close_wait_uncharged", "Sockets in CLOSE_WAIT that no process is charged with."),
        ("processes_unreadable", "processes_unreadable", "Processes whose descriptors could not be read."),
        ("namespaces_unread", "namespaces_unread", "Network namespaces whose sockets are not in the samples."),
    ):
        yield gauge(f"loiter_fleet_{name}", help_text, value(coverage, field))
    causes = {cause_name(one.cause) or "": one for one in figures.causes}
    yield gauges(
        "loiter_cause_close_wait_sockets",
        "Sockets in CLOSE_WAIT by why they stay; those that come and go have no cause.",
        "cause",
        {name: one.close_wait for name, one in causes.items()},
    )
    yield gauges(
        "loiter_cause_processes",
        "Processes with such sockets by cause.",
        "cause",
        {name: one.processes for name, one in causes.items()},
    )


def _hosts(hosts: Iterable[pb.HostRank]) -> Iterator[Metric]:
    rows = {host.host_id: host_figures(host) for host in hosts}
    names = label_values({key: row["host"] for key, row in rows.items()})
    yield from _of_rows("host", {names[key]: row for key, row in rows.items()}, _OF_HOSTS)
    yield gauges(
        "loiter_host_time_wait_overflows",
        f"TIME_WAIT sockets destroyed for want of room within the window, {_OF_HOSTS}",
        "host",
        {names[host.host_id]: value(host, "time_wait_overflows") for host in hosts},
    )


def _silent(hosts: Iterable[pb.SilentHost], top: int, now: int) -> Metric:
    latest = sorted(hosts, key=lambda host: from_timestamp(host.last_report_time), reverse=True)[:top]
    names = label_values({host.host_id: host.hostname for host in latest})
    return gauges(
        "loiter_host_silent_seconds",
        "Time since the last report of the hosts that fell silent latest.",
        "host",
        {names[host.host_id]: (now - from_timestamp(host.last_report_time)) / 1_000 for host in latest},
    )


def _apps(apps: Iterable[pb.AppRank]) -> Iterator[Metric]:
    rows = {app.app: app_row(0, app) for app in apps}
    names = label_values({key: key for key in rows})
    shown = {names[key]: row for key, row in rows.items()}
    yield from _of_rows("app", shown, _OF_APPS)
    for name, help_text in (("hosts", "Hosts that an application is on"), ("processes", "Processes of an application")):
        yield gauges(
            f"loiter_app_{name}",
            f"{help_text}, {_OF_APPS}",
            "app",
            {key: row[name] for key, row in shown.items()},
        )


def _of_rows(what: str, rows: Mapping[str, Row], of_what: str) -> Iterator[Metric]:
    for name, key, help_text in _OF_ROW:
        yield gauges(
            f"loiter_{what}_{name}", f"{help_text}, {of_what}", what, {shown: row[key] for shown, row in rows.items()}
        )
    family = GaugeMetricFamily(
        f"loiter_{what}_cause", f"1 for why most CLOSE_WAIT sockets stay, {of_what}", labels=(what, "cause")
    )
    for shown, row in rows.items():
        if row["cause"] is not None:
            family.add_metric((shown, row["cause"]), 1)
    yield family


def _alerts(found: pb.ListAlertsResponse) -> Iterator[Metric]:
    rules = label_values({rule.name: rule.name for rule in found.rules})
    often = Counter((alert.rule, alert.state) for alert in found.alerts)
    family = GaugeMetricFamily("loiter_alerts", "Alerts by rule and state.", labels=("rule", "state"))
    for rule, shown in rules.items():
        for state, name in _ALERT_STATES.items():
            family.add_metric((shown, name), often[rule, state])
    yield family
    yield gauges(
        "loiter_alerts_left_out",
        "What breaks a rule and has no alert, for want of room.",
        "rule",
        {rules[rule.name]: float(rule.left_out) for rule in found.rules},
    )
    evaluated = found.evaluated_time
    yield gauge(
        "loiter_alerts_evaluated_timestamp_seconds",
        "When the rules were evaluated last.",
        from_timestamp(evaluated) / 1_000 if found.HasField("evaluated_time") else None,
    )
    receivers = label_values({receiver.url: receiver.url for receiver in found.receivers})
    yield gauges(
        "loiter_alerts_receiver_failing",
        "1 where the last push of alerts to a receiver failed.",
        "receiver",
        {receivers[receiver.url]: float(bool(receiver.error)) for receiver in found.receivers},
    )


def _reports(found: pb.ListReportsResponse) -> Iterator[Metric]:
    # Runs come latest first; what failed earlier is not what is the matter now.
    latest = {run.schedule: run for run in reversed(found.runs)}.values()
    often = Counter(delivery.state for run in latest for delivery in run.deliveries)
    yield gauges(
        "loiter_report_deliveries",
        "Deliveries of the latest run of each scheduled report by state.",
        "state",
        {
            name.removeprefix("DELIVERY_STATE_").lower(): often[state]
            for name, state in pb.DeliveryState.items()
            if state and found.schedules
        },
    )
    yield gauge(
        "loiter_report_builds_failed",
        "Scheduled reports whose latest run could not be built.",
        sum(1 for run in latest if run.error) if found.schedules else None,
    )
