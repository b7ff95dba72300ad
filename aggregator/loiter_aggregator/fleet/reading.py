"""All that can be asked, in one place: what FleetService and the web page answer from."""

from __future__ import annotations

from dataclasses import dataclass

from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet.sockets import Sockets
from loiter_aggregator.reports.reporting import Reporting


@dataclass(frozen=True, slots=True)
class Reading:
    """What knows the answers, by what is asked."""

    fleet: Fleet
    sockets: Sockets
    reports: Reporting
    alerts: Alerting
