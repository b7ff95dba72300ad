"""`loiter-agent sample`: this host now."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import time
from typing import Final

from loiter_agent.commands.settings import add_config, read_settings

HELP: Final = "show this host now, without an aggregator"

_SECOND_LOOK_SECONDS: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares its flags."""
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="its form; default: table")
    add_config(parser)


def execute(options: argparse.Namespace) -> None:
    """Samples once, or twice where sockets are in CLOSE_WAIT, and prints what it saw."""
    from loiter_agent.host import HOST_ID_FILE, identify_host
    from loiter_agent.label_sources import labels_now
    from loiter_agent.procfs import Procfs
    from loiter_agent.sampler import Bounds, Sampler
    from loiter_agent.show import as_json, as_table

    # `loiter-agent sample | head` ends as other tools end there: in silence.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that can not show a character gets its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    settings = read_settings(options.config, {})
    procfs = Procfs()
    # Nothing is written: without a machine-id, only an id that `run` has drawn before is shown.
    state_dir = settings.state_dir if (settings.state_dir / HOST_ID_FILE).exists() else None
    labels, missing = labels_now(settings)
    if missing is not None:
        print(f"loiter-agent: {missing}", file=sys.stderr)
    host = identify_host(procfs, settings.host_id, settings.hostname, labels, state_dir=state_dir)
    sampler = Sampler(
        procfs,
        Bounds(settings.processes.top, settings.processes.limit),
        arguments=settings.processes.arguments,
        trace_closes=False,
    )
    taken = sampler.sample()
    if any(row.close_wait for row in taken.processes):
        # What stays and what comes and goes, who waits for a processor: that takes a second look.
        time.sleep(_SECOND_LOOK_SECONDS)
        taken = sampler.sample()
    print((as_json if options.output == "json" else as_table)(host, taken))
    sampler.close()
