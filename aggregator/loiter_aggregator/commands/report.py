"""`loiter report`: the fleet over a period, and what became of what was wrong."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from loiter.files import write_atomically
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import DurationType, label_option, query_labels, server_option
from loiter_aggregator.queries import query_duration

_FORMS: Final = ("html", "md", "json", "csv")
_ENDINGS: Final = {
    ".html": "html",
    ".htm": "html",
    ".md": "md",
    ".markdown": "md",
    ".txt": "md",
    ".json": "json",
    ".csv": "csv",
}
_STANDARD_OUTPUT: Final = "-"
_DEFAULT_PERIOD_SECONDS: Final = 86_400.0
_MODE: Final = 0o644
# A report takes a dozen questions, one after the other.
_TIMEOUT_SECONDS: Final = 300.0


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    help="The form; by default what the ending of --output says, and else md.",
)
@click.option(
    "--period", type=DurationType(), metavar="DURATION", help="What it is about, and compares with. [default: 1d]"
)
@click.option("--schedule", metavar="NAME", help="A scheduled report as it would be sent now, with all its settings.")
@label_option
@click.option(
    "--output",
    metavar="FILE",
    default=_STANDARD_OUTPUT,
    show_default=True,
    help="Where to write it; - is standard output.",
)
@click.option("--preview", is_flag=True, help="Open it in the browser, as HTML.")
@click.option("--list", "listed", is_flag=True, help="List the scheduled reports and what became of them instead.")
@server_option
def report(
    form: str | None,
    period: float | None,
    schedule: str | None,
    wanted: tuple[tuple[str, str], ...],
    output: str,
    preview: bool,
    listed: bool,
    server: str,
) -> None:
    """Report on the fleet: what is new, worse and resolved, and what will run out before the next report.

    It compares with the period before, where the store reaches back so far; a scheduled one with the last that arrived.
    """
    if listed:
        if preview or schedule or period or wanted or output != _STANDARD_OUTPUT or form not in (None, "json"):
            raise click.UsageError("--list goes with --format json alone")
        _list(server, as_data=form == "json")
        return
    if schedule and (period or wanted):
        raise click.UsageError("--schedule has a period and labels of its own; leave --period and --label out")
    if preview and (output != _STANDARD_OUTPUT or form not in (None, "html")):
        raise click.UsageError("--preview is HTML, in a file of its own; leave --output and --format out")
    chosen = "html" if preview else form or _form_of(output)
    request = pb.GetReportRequest(
        schedule=schedule or "",
        period=query_duration(period or _DEFAULT_PERIOD_SECONDS),
        labels=query_labels(wanted),
    )
    with connect(server) as client:
        found = client.ask(client.stub.GetReport, request, _TIMEOUT_SECONDS).report
    content = _rendered(found, chosen)
    if preview:
        _open(content)
    elif output == _STANDARD_OUTPUT:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        _write(Path(output), content)


def _form_of(output: str) -> str:
    """The form that the ending of a file says; Markdown where it has none, such as standard output."""
    ending = Path(output).suffix.lower()
    if ending and ending not in _ENDINGS:
        raise click.UsageError(
            f"{printable(ending)[:20]} is no form of a report; --output takes {', '.join(_ENDINGS)}, "
            "or say the form by --format"
        )
    return _ENDINGS.get(ending, "md")


def _list(server: str, as_data: bool) -> None:
    with connect(server) as client:
        answer = client.ask(client.stub.ListReports, pb.ListReportsRequest())
    from loiter_aggregator.output.reports import schedules_document, schedules_page

    if as_data:
        from loiter_aggregator.output.data import as_json

        click.echo(as_json(schedules_document(answer)))
    else:
        from loiter_aggregator.output.tables import console

        console(wide=False).print(schedules_page(answer))


def _rendered(found: pb.FleetReport, form: str) -> bytes:
    from loiter_aggregator.output.progress import progress
    from loiter_aggregator.reports.rendering.render import render

    with progress("drawing the report"):
        return render(found, form)


def _write(file: Path, content: bytes) -> None:
    try:
        if file.exists() and not file.is_file():  # such as /dev/stdout or a pipe
            file.write_bytes(content)
        else:
            write_atomically(file, content, _MODE)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror or error}") from None
    click.echo(f"written to {file}", err=True)


def _open(content: bytes) -> None:
    """Opens a page where there is somebody to see it, and says where it is. It is kept: a browser reads it later."""
    import os
    import webbrowser

    with tempfile.NamedTemporaryFile(prefix="loiter-report-", suffix=".html", delete=False) as stream:
        stream.write(content)
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")) and webbrowser.open(
        Path(stream.name).as_uri()
    )
    click.echo(f"opened {stream.name}" if shown else f"there is no display to open it on: see {stream.name}")
