"""Whether what the running service reports is acknowledged, by its own status."""

from __future__ import annotations

from loiter_agent.checks.finding import Finding, State
from loiter_agent.install.verify import is_delivering
from loiter_agent.status import Status


def check_report(status: Status | None, main_pid: int, now: float) -> Finding:
    """The last acknowledgement."""
    if status is None or status.pid != main_pid:
        return Finding("reports", State.MISSING, "the service has not completed a sample", "journalctl -u loiter-agent")
    waiting = f"{status.waiting_reports:,} waiting, {status.lost_reports:,} lost"
    if is_delivering(status, main_pid, now):
        limited = status.left_out is not None
        over = f"; over its budget: {status.left_out}" if limited else ""
        return Finding(
            "reports",
            State.LIMITED if limited else State.OK,
            f"{status.acknowledged_reports:,} acknowledged, the last at {status.last_acknowledged_at}; {waiting}{over}",
            "a larger cpu_budget" if limited else None,
        )
    last = status.last_acknowledged_at or "none in this run"
    why = f": {status.error}" if status.error else ""
    return Finding(
        "reports", State.MISSING, f"not acknowledged{why}; the last: {last}; {waiting}", "see 'server' above"
    )
