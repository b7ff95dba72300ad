"""Whether an aggregator would take reports, and how long certificates last."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loiter_agent.checks.finding import Finding, State
from loiter_agent.probe import Probe, Verdict

_SOON_DAYS: Final = 30


def check_servers(probes: Iterable[Probe]) -> list[Finding]:
    """A finding for each; one that lets the agent in is enough."""
    tried = list(probes)
    admitted = any(one.verdict is Verdict.ADMITTED for one in tried)
    return [_server(one, admitted) for one in tried]


def only_root_can_try() -> Finding:
    """For others, where the service is installed: they can not show what it shows, nor read its status."""
    return Finding(
        "server",
        State.LIMITED,
        "not tried: only root can read what the service connects with",
        "sudo loiter-agent check",
    )


def check_certificate(what: str, file: Path, validity: tuple[datetime, datetime] | None, now: datetime) -> Finding:
    """How long a certificate lasts. `validity` is None where it can not be read."""
    if validity is None:
        return Finding(what, State.MISSING, f"{file} can not be read", "run it as root, or have the file made anew")
    days = (validity[1] - now.astimezone(UTC)).days
    until = f"{file} until {validity[1]:%Y-%m-%d}"
    if now >= validity[1]:
        return Finding(what, State.MISSING, f"{until}: expired", "have a new one made, then restart the service")
    if now < validity[0]:
        return Finding(what, State.MISSING, f"{file} is not valid before {validity[0]:%Y-%m-%d}", "is the clock right?")
    if days < _SOON_DAYS:
        return Finding(what, State.LIMITED, f"{until}, {days} days", "have a new one made, then restart the service")
    return Finding(what, State.OK, f"{until}, {days} days")


def _server(one: Probe, admitted: bool) -> Finding:
    if one.verdict is Verdict.ADMITTED:
        return Finding("server", State.OK, f"{one.server} {one.words}")
    state = State.LIMITED if admitted else State.MISSING
    if not one.resolved:
        remedy = f"getent hosts {one.server.rpartition(':')[0]}; are the name and /etc/resolv.conf right?"
        return Finding("server", state, f"{one.server}: {one.words}", remedy)
    if one.verdict is Verdict.AWAY:
        return Finding("server", state, f"{one.server}: {one.words}", "is 'loiter serve' running there, and reachable?")
    return Finding(
        "server",
        state,
        f"{one.server}: {one.words}",
        "loiter-agent install --ca FILE --token-file FILE, or --certificate",
    )
