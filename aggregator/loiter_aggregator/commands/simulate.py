"""`loiter simulate`: a fleet that there is not, for demos and for load."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from loiter.addresses import is_loopback
from loiter.limits import MAX_INTERVAL_SECONDS, MAX_PROCESSES
from loiter.transport import SecurityFileError
from loiter_aggregator.client import call_metadata, connect, given_security
from loiter_aggregator.commands.options import DurationType, TimeType, server_option

if TYPE_CHECKING:
    from loiter_aggregator.simulation.plan import Plan
    from loiter_aggregator.simulation.worker import Target

_MAX_HOSTS: Final = 1_000_000
_MAX_WORKERS: Final = 64
# Of which kind how many percent of the hosts are, and what that means.
_KINDS: Final = (
    ("leaking", 2.0, "Hosts with two processes that forget to close."),
    ("busy", 8.0, "Hosts with many connections a second: TIME_WAIT, and ports that fill up."),
    ("exhausting", 2.0, "Hosts with a process that runs out of descriptors, not by sockets."),
    ("churning", 5.0, "Hosts whose processes live for some minutes."),
    ("restarting", 3.0, "Hosts on which now a process, now the agent, now the host starts anew."),
    ("silent", 1.0, "Hosts that report no more after some time."),
)


class PercentType(click.ParamType[float]):
    """A part of the whole, as 2% or 2; the value is from 0 to 100."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads it."""
        try:
            percent = float(str(value).removesuffix("%"))
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            self.fail(f"{value!r} is not between 0% and 100%", param, ctx)
        return percent


def _kind_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for kind, percent, meaning in reversed(_KINDS):
        flag = click.option(
            f"--{kind}", type=PercentType(), default=f"{percent:g}%", metavar="PERCENT", show_default=True, help=meaning
        )
        command = flag(command)
    return command


@click.command()
@click.option("--hosts", type=click.IntRange(1, _MAX_HOSTS), required=True, help="How many hosts.")
@click.option(
    "--interval", type=DurationType(), default="10s", metavar="DURATION", show_default=True, help="Between two reports."
)
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_PROCESSES),
    default=10,
    show_default=True,
    help="Processes that a host reports one by one.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Another gives others.",
)
@click.option("--for", "lasting", type=DurationType(), metavar="DURATION", help="How long; until Ctrl-C if not given.")
@click.option(
    "--backfill",
    type=DurationType(),
    metavar="DURATION",
    help="As if it had run for so long: what is past comes first.",
)
@click.option(
    "--start", type=TimeType(), metavar="TIME", help="When it began to run, in place of --backfill: to go on with it."
)
@click.option(
    "--workers", type=click.IntRange(1, _MAX_WORKERS), default=2, show_default=True, help="Processes to send."
)
@click.option(
    "--hosts-per-connection",
    type=click.IntRange(1, _MAX_HOSTS),
    default=1,
    show_default=True,
    help="Agents have a connection each; for load, several streams may share one.",
)
@_kind_options
@click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write what leaks, as JSON.",
)
@click.option("--allow-remote", is_flag=True, help="Send to an aggregator that is not on this machine, too.")
@click.option(
    "-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True, help="The summary."
)
@server_option
def simulate(
    hosts: int,
    interval: float,
    processes: int,
    seed: int,
    lasting: float | None,
    backfill: float | None,
    start: datetime | None,
    workers: int,
    hosts_per_connection: int,
    truth: Path | None,
    allow_remote: bool,
    output: str,
    server: str,
    **percents: float,
) -> None:
    """Report to an aggregator as a fleet of agents does, whose hosts are made up. The same seed makes the same.

    Its hosts are called sim-00001 and so on, and have the label simulated=true. When it ends, by Ctrl-C or after --for,
    it prints what became of the reports. The exit status is 1 where one was rejected, or never acknowledged.
    """
    from loiter_aggregator.simulation.plan import Kind, Plan  # late, as numpy is

    if not (allow_remote or is_loopback(server)):
        raise click.UsageError(
            f"{server} is not on this machine, and simulated hosts would stand among the real ones there for as long "
            "as samples are kept; --allow-remote sends them nevertheless"
        )
    if interval > MAX_INTERVAL_SECONDS:
        raise click.UsageError(f"--interval: agents report every {MAX_INTERVAL_SECONDS / 3_600:g}h or more often")
    began = _began(time.time_ns() // 1_000_000, backfill, start)
    shares = {Kind(kind): percent / 100 for kind, percent in percents.items()}
    try:
        plan = Plan(hosts, began, seed, round(interval * 1_000), processes, shares)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    workers = min(workers, hosts)
    target = _target(server, hosts_per_connection, workers, hosts)
    if truth is not None:
        _write_truth(plan, truth)
    _run(plan, target, workers, lasting, output)


def _began(now: int, backfill: float | None, start: datetime | None) -> int:
    """When the fleet began to run, in milliseconds since 1970."""
    if start is None:
        return now - round((backfill or 0.0) * 1_000)
    if backfill is not None:
        raise click.UsageError("--start and --backfill both say when it began to run; give one of them")
    began = round(start.timestamp() * 1_000)
    if began > now:
        raise click.UsageError("--start is in the future")
    return began


def _target(server: str, hosts_per_connection: int, workers: int, hosts: int) -> Target:
    """Tries whether reports would be taken. Raises ClickException."""
    from loiter_aggregator.descriptors import room_for_streams
    from loiter_aggregator.simulation.probe import probe
    from loiter_aggregator.simulation.worker import Target

    security = given_security()
    try:
        target = Target(server, security, call_metadata(security), hosts_per_connection)
    except SecurityFileError as error:
        raise click.ClickException(str(error)) from None
    room, needed = room_for_streams(), target.connections(-(-hosts // workers))
    if needed > room:
        raise click.UsageError(
            f"each of {workers} workers would have {needed:,} connections, and file descriptors for {room:,} "
            "(ulimit -n); raise that, or --workers, or --hosts-per-connection"
        )
    with connect(server) as client:
        probe(client, target.metadata)
    return target


def _write_truth(plan: Plan, file: Path) -> None:
    from loiter_aggregator.simulation.truth import truth

    try:
        file.write_text(json.dumps(truth(plan), indent=2) + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None


def _run(plan: Plan, target: Target, workers: int, lasting: float | None, output: str) -> None:
    from loiter_aggregator.simulation.running import Simulation, WorkersFail
    from loiter_aggregator.simulation.showing import document, print_summary, shown

    heading = f"simulating {plan.hosts:,} hosts, seed {plan.seed}, to {target.server}"
    simulation = Simulation(plan, target, workers, lambda words: click.echo(words, err=True))
    try:
        with shown(heading) as show:
            last = simulation.run(lasting, show)
    except WorkersFail as error:
        raise click.ClickException(str(error)) from None
    summary = document(plan.hosts, last)
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        print_summary(plan.hosts, last)
    if summary["rejected"] or summary["unacknowledged"]:
        raise SystemExit(1)
