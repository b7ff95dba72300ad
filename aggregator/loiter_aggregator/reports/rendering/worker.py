"""Draws and lays out reports in a process of its own, for the aggregator: its loop and its memory are not for that.

As a program: reads a FleetReport from standard input, and writes the files that its arguments name to standard output,
as one JSON object of their names and contents (base64).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from loiter.own_python import module_command
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.rendering.render import render

# The HTML part of an e-mail, whose pictures are files of their own: `chart-NAME.png`, referred to by that name.
MAIL: Final = "mail"
_CHART: Final = "chart-"
# The first time, matplotlib looks through all fonts of the machine.
_TIMEOUT_SECONDS: Final = 120.0
_LAST_WORDS: Final = 200

_turn = asyncio.Lock()


class RenderError(Exception):
    """The process that renders failed; the message says how."""


async def render_apart(report: pb.FleetReport, forms: Sequence[str], cache: Path) -> Mapping[str, bytes]:
    """Renders the forms; of `MAIL`, the HTML and every picture. One at a time; what has no pictures in a thread.

    Args:
        report: The report.
        forms: Those of `render`, or MAIL.
        cache: A folder that is kept, for the fonts that were found. matplotlib makes it where it is missing.

    Raises:
        RenderError: It could not be rendered.
    """
    if not {"html", MAIL} & set(forms):
        return await asyncio.to_thread(lambda: {form: render(report, form) for form in forms})
    async with _turn:
        try:
            process = await asyncio.create_subprocess_exec(
                *module_command(__name__, *forms),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # A thread for each processor would take the memory of each.
                env={**os.environ, "MPLCONFIGDIR": str(cache), "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise RenderError(f"cannot be rendered: {error.strerror}") from None
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                out, errors = await process.communicate(report.SerializeToString())
        except TimeoutError:
            raise RenderError(f"was not rendered within {_TIMEOUT_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        words = errors.decode(errors="replace").strip().splitlines()
        raise RenderError(f"cannot be rendered: {words[-1][:_LAST_WORDS] if words else process.returncode}")
    return {name: base64.b64decode(content) for name, content in json.loads(out).items()}


def main() -> None:
    """Renders what the arguments name."""
    report = pb.FleetReport.FromString(sys.stdin.buffer.read())
    files: dict[str, bytes] = {}
    for form in sys.argv[1:]:
        files |= _mail(report) if form == MAIL else {form: render(report, form)}
    json.dump({name: base64.b64encode(content).decode() for name, content in files.items()}, sys.stdout)


def _mail(report: pb.FleetReport) -> dict[str, bytes]:
    from loiter_aggregator.reports.rendering.charts import as_png, charts
    from loiter_aggregator.reports.rendering.html import mail

    pictures = {chart.name: f"{_CHART}{chart.name}.png" for chart in charts(report)}
    drawn = {pictures[chart.name]: as_png(chart) for chart in charts(report)}
    return {MAIL: mail(report, pictures).encode(), **drawn}


def pictures(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The pictures among the files of an e-mail."""
    return {name: content for name, content in files.items() if name.startswith(_CHART)}


if __name__ == "__main__":
    main()
