"""Shows how far a simulation is, and what it came to: on a terminal, as lines, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loiter.durations import format_duration
from loiter.text import printable
from loiter_aggregator.simulation.counts import Count, Totals
from loiter_aggregator.simulation.running import Progress

_LINE_SECONDS: Final = 5.0
_BAR_COLUMNS: Final = 40
_LATE_SECONDS: Final = 4.0

Show = Callable[[Progress], None]


@contextmanager
def shown(heading: str) -> Iterator[Show]:
    """Yields what shows progress on standard error: refreshed on a terminal, else a line every five seconds."""
    late = _Late()
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        click.echo(heading, err=True)
        yield _Lines(late).show
        return
    with Live(Text(heading, style="bold"), console=console, refresh_per_second=4) as live:

        def show(progress: Progress) -> None:
            late.look(progress)
            live.update(_screen(heading, progress, late))

        yield show


class _Late:
    """What happened of late: acknowledged reports a second, and the CPU time of the workers for a report sent."""

    def __init__(self) -> None:
        self._since = 0.0
        self._before = dict.fromkeys(Count, 0)
        self.rate = 0.0
        self.cpu: float | None = None

    def look(self, progress: Progress) -> None:
        """Looks, where long enough has passed since the last time."""
        counts, passed = progress.totals.counts, progress.elapsed - self._since
        if passed < _LATE_SECONDS:
            return
        grown = {count: counts[count] - self._before[count] for count in Count}
        sent = grown[Count.SENT] + grown[Count.RESENT]
        self.rate = grown[Count.ACKNOWLEDGED] / passed
        self.cpu = grown[Count.CPU] / 1e3 / sent if sent else None
        self._since, self._before = progress.elapsed, counts


class _Lines:
    def __init__(self, late: _Late) -> None:
        self._late, self._next = late, _LINE_SECONDS

    def show(self, progress: Progress) -> None:
        self._late.look(progress)
        if progress.elapsed >= self._next:
            self._next = progress.elapsed + _LINE_SECONDS
            stamp = datetime.now(UTC).strftime("%H:%M:%S")
            words = ", ".join(f"{name} {value}" for name, value in _figures(progress, self._late).items())
            click.echo(f"{stamp} {words}", err=True)


def _screen(heading: str, progress: Progress, late: _Late) -> Group:
    table = Table.grid(padding=(0, 2))
    for name, value in _figures(progress, late).items():
        table.add_row(Text(name, style="dim"), value)
    bar = [] if progress.is_live else [ProgressBar(total=1.0, completed=progress.past, width=_BAR_COLUMNS)]
    return Group(Text(heading, style="bold"), *bar, table, Text("Ctrl-C to end", style="dim"))


def _figures(progress: Progress, late: _Late) -> dict[str, str]:
    totals, counts = progress.totals, progress.totals.counts
    figures = {
        "running": format_duration(progress.elapsed),
        "past": "delivered" if progress.is_live else f"{100 * progress.past:.1f} % delivered",
        "streams": f"{counts[Count.STREAMS]:,}",
        "acknowledged": f"{counts[Count.ACKNOWLEDGED]:,} ({late.rate:,.0f}/s)",
        "waiting": f"{totals.waiting:,}",
        "acks": _latency(totals),
        "CPU a report": "-" if late.cpu is None else f"{late.cpu:,.0f} µs",
        "rejected": f"{counts[Count.REJECTED]:,}",
        "reconnects": f"{counts[Count.RECONNECTS]:,}",
    }
    return figures | ({} if progress.complaint is None else {"last trouble": printable(progress.complaint)})


def _latency(totals: Totals) -> str:
    if totals.latency_p50 is None or totals.latency_p99 is None or totals.latency_max is None:
        return "-"
    return f"p50 {totals.latency_p50:.2f} s p99 {totals.latency_p99:.2f} s max {totals.latency_max:.2f} s"


def document(hosts: int, progress: Progress) -> dict[str, Any]:
    """What a simulation came to. Unknown is None."""
    totals, counts = progress.totals, progress.totals.counts
    written = counts[Count.SENT] + counts[Count.RESENT]
    return {
        "hosts": hosts,
        "seconds": round(progress.elapsed, 3),
        "sent": counts[Count.SENT],
        "acknowledged": counts[Count.ACKNOWLEDGED],
        "rejected": counts[Count.REJECTED],
        "unacknowledged": totals.waiting,
        "resent": counts[Count.RESENT],
        "reconnects": counts[Count.RECONNECTS],
        "ack_seconds": {
            "p50": _rounded(totals.latency_p50),
            "p99": _rounded(totals.latency_p99),
            "max": _rounded(totals.latency_max),
        },
        "report_bytes": {"p50": totals.size_p50, "p99": totals.size_p99},
        "cpu_seconds": round(counts[Count.CPU] / 1e9, 3),
        "cpu_microseconds_per_report": round(counts[Count.CPU] / 1e3 / written, 1) if written else None,
        "last_trouble": progress.complaint,
    }


def print_summary(hosts: int, progress: Progress) -> None:
    """Prints what a simulation came to, for people."""
    said, totals = document(hosts, progress), progress.totals
    cpu, sizes = said["cpu_microseconds_per_report"], said["report_bytes"]
    rows = {
        "hosts": f"{hosts:,}",
        "time": format_duration(progress.elapsed),
        "reports sent": f"{said['sent']:,}",
        "acknowledged": f"{said['acknowledged']:,}",
        "rejected": f"{said['rejected']:,}",
        "not acknowledged": f"{said['unacknowledged']:,}",
        "sent again": f"{said['resent']:,}",
        "reconnects": f"{said['reconnects']:,}",
        "from tick to acknowledgement": _latency(totals),
        "bytes a report": "-" if sizes["p50"] is None else f"p50 {sizes['p50']:,} p99 {sizes['p99']:,}",
        "CPU of the senders a report": "-" if cpu is None else f"{cpu:,.1f} µs",
    } | ({} if progress.complaint is None else {"last trouble": printable(progress.complaint)})
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")
    sys.stdout.flush()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
