"""The command `loiter-agent`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loiter import logs
from loiter.logs import LOG_FORMATS
from loiter.settings import SettingsError, load
from loiter.transport import SecurityFileError, read_certificates, read_key, read_token
from loiter.version import version
from loiter_agent.config import DEFAULT_FILE, AgentSettings
from loiter_agent.host import HOST_ID_FILE, identify_host
from loiter_agent.lean import leave_out_openssl, leave_out_unused
from loiter_agent.procfs import Procfs

# grpc, protobuf and apscheduler are imported by `run` alone: `sample` is to start fast and stay small.


_SECOND_LOOK_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits: 0 good, 1 failed, 2 wrong usage."""
    options = build_parser().parse_args(arguments)
    # Scheduling slips are counted in each report; the scheduler's own messages would repeat them every tick.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    # What a server sends that can not be read is reported by the uplink.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    try:
        options.command(options)
    except SettingsError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(_explain(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    """Declares the commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="loiter-agent",
        description="Samples the TCP sockets and file descriptors of this host and reports them to an aggregator.",
    )
    parser.add_argument("--version", action="version", version=f"loiter-agent {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    sample = commands.add_parser("sample", help="show this host now, without an aggregator")
    sample.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    sample.set_defaults(command=_sample)

    run = commands.add_parser("run", help="sample on a schedule and report")
    run.add_argument("--server", action="append", metavar="HOST:PORT", help="an aggregator; may be given again")
    run.add_argument("--interval", metavar="DURATION", help="time between two samples, such as 10s")
    run.add_argument("--state-dir", metavar="DIR", help="where the agent keeps its state")
    run.add_argument("--ca", metavar="FILE", help="certificates of the authorities that aggregators are trusted by")
    run.add_argument("--certificate", metavar="FILE", help="certificate of this host, with its chain")
    run.add_argument("--key", metavar="FILE", help="private key of that certificate")
    run.add_argument("--token-file", metavar="FILE", help="file with the token that allows to report")
    run.add_argument("--insecure", action="store_true", default=None, help="report in plaintext, also off this machine")
    run.add_argument("--cpu-budget", metavar="PERCENT", help="share of one processor to stay below, such as 2%%")
    run.add_argument("--hostname", metavar="NAME", help="report under this name")
    run.add_argument("--label", action="append", metavar="KEY=VALUE", help="a label; may be given again")
    run.add_argument("--labels-file", metavar="FILE", help="labels, a line each")
    run.add_argument("--log-format", choices=LOG_FORMATS, help="how log lines are written; default: auto")
    run.set_defaults(command=_run)

    for command in (sample, run):
        command.add_argument("--config", metavar="FILE", type=Path, help=f"settings; default: {DEFAULT_FILE}, if any")
    return parser


def _sample(options: argparse.Namespace) -> None:
    from loiter_agent.sampler import Bounds, Sampler
    from loiter_agent.show import as_json, as_table

    # `loiter-agent sample | head` ends as other tools end there: in silence.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that can not show a character gets its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    settings = _settings(options.config, {})
    procfs = Procfs()
    # Nothing is written: without a machine-id, only an id that `run` has drawn before is shown.
    state_dir = settings.state_dir if (settings.state_dir / HOST_ID_FILE).exists() else None
    host = identify_host(procfs, settings.host_id, settings.hostname, settings.labels, state_dir=state_dir)
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


def _run(options: argparse.Namespace) -> None:
    leave_out_openssl()
    import asyncio

    # Before grpc is imported: its C core would write to standard error what we report in our own words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with leave_out_unused():
        from loiter_agent.service import Agent

    def read_settings() -> AgentSettings:
        settings = _settings(
            options.config,
            {
                "server": options.server,
                "interval": options.interval,
                "state_dir": options.state_dir,
                "tls.ca": options.ca,
                "tls.certificate": options.certificate,
                "tls.key": options.key,
                "token_file": options.token_file,
                "insecure": options.insecure,
                "cpu_budget": options.cpu_budget,
                "hostname": options.hostname,
                "labels": options.label,
                "labels_file": options.labels_file,
                "log_format": options.log_format,
            },
        )
        _check_files(settings)
        return settings

    settings = read_settings()
    logs.configure("loiter-agent", settings.log_format, settings.log_level)

    # Three descriptors for each network namespace that is kept open.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def run() -> None:
        await Agent(settings, read_settings).run()

    asyncio.run(run())


def _check_files(settings: AgentSettings) -> None:
    """Reads the files that show who somebody is, which is done anew for every connection. Raises SettingsError."""
    tls = settings.tls
    if (tls.certificate is None) != (tls.key is None):
        given, missing = ("tls.key", "tls.certificate") if tls.certificate is None else ("tls.certificate", "tls.key")
        raise SettingsError(f"{given} is of no use without {missing}: give both or neither")
    files: tuple[tuple[str, Path | None, Callable[[Path], object]], ...] = (
        ("tls.ca", tls.ca, read_certificates),
        ("tls.certificate", tls.certificate, read_certificates),
        ("tls.key", tls.key, read_key),
        ("token_file", settings.token_file, read_token),
    )
    for name, file, read in files:
        if file is not None:
            try:
                read(file)
            except SecurityFileError as error:
                raise SettingsError(f"{name}: {error}") from None


def _settings(file: Path | None, flags: Mapping[str, object]) -> AgentSettings:
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    return load(AgentSettings, file, os.environ, flags)


def _explain(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _fail(message: str, code: int) -> None:
    print(f"loiter-agent: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
