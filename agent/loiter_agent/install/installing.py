"""`loiter-agent install`, from its flags to its exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from loiter.durations import parse_duration
from loiter.progress import waiting
from loiter.service_install.errors import InstallError
from loiter.service_install.look import found_files, found_folders, found_paths
from loiter.service_install.plan import Found, apply, describe, log_of_start, plan
from loiter.service_install.preconditions import require_root, require_systemd
from loiter.service_install.steps import Step, StepFailed
from loiter.service_install.systemd import last_log_lines, service_state
from loiter.service_install.units import (
    UnitError,
    code_changed_at,
    own_command,
    packaged,
    places_of,
    shipped,
    shipped_drop_ins,
    unreachable,
)
from loiter.settings import SettingsError, entries, load
from loiter.text import printable
from loiter.version import version
from loiter_agent.config import DEFAULT_FILE, AgentSettings
from loiter_agent.install.credentials import read_credentials
from loiter_agent.install.places import (
    CREDENTIALS,
    UNIT,
    UNIT_FILE,
    credential,
    displaced,
    named_files,
    security,
)
from loiter_agent.install.verify import Delivery, wait_for_delivery
from loiter_agent.install.wanted import Request, asked_values, wanted
from loiter_agent.probe import Probe, Verdict, probe
from loiter_agent.status import INSTALLED_FILE

_ROOT: Final = Path("/")
_WITHOUT_SYSTEMD: Final = "have your own supervisor run: loiter-agent run"
_ELSEWHERE: Final = (
    "install it where it is root's and everyone can read: python3 -m venv /opt/loiter && /opt/loiter/bin/pip install "
    "loiter && /opt/loiter/bin/loiter-agent install"
)


def install(options: argparse.Namespace) -> None:
    """Installs the service as the flags say. Raises SettingsError; exits with 1 where it can not be done."""
    timeout = _timeout(options.timeout)
    try:
        require_root("loiter-agent install")
        require_systemd(_WITHOUT_SYSTEMD)
        settings = _settings(options)
        files = _given_files(options)
        request = _request(options, read_credentials(files))
        _check_settings_name_no_other(settings, files)
        _probe_servers(settings, files, options.force)
        steps = _plan(request, timeout)
        if options.dry_run:
            print(describe(steps) or "nothing to do")
            return
        if not steps:
            print("nothing to do")
        apply(steps, _ROOT, print)
    except StepFailed as error:
        _fail("\n".join((str(error), *log_of_start(error, UNIT))))
    except InstallError as error:
        _fail(str(error))
    if options.no_start:
        print(f"installed; it starts with the next boot, or by: systemctl start {UNIT}")
        return
    _verify(timeout, None if request.packaged else version())


def _verify(timeout: float, wanted_version: str | None) -> None:
    """Waits for an acknowledgement. `wanted_version` is what has to run; None with a package, which has its own."""
    with waiting("waiting for an aggregator to acknowledge a report"):
        delivery = wait_for_delivery(INSTALLED_FILE, lambda: service_state(UNIT).main_pid, timeout, wanted_version)
    status = delivery.status
    if delivery.acknowledged and status is not None:
        count = status.acknowledged_reports
        acknowledged = f"{status.server} has acknowledged {count:,} report{'' if count == 1 else 's'}"
        print(f"{UNIT} is running: {printable(acknowledged)}")
        return
    _fail(unacknowledged(delivery, timeout, wanted_version))


def unacknowledged(delivery: Delivery, timeout: float, wanted_version: str | None) -> str:
    """Why no report was acknowledged, in lines that are fit for a terminal, and what becomes of the service."""
    lines = [f"{UNIT} is installed, but no report was acknowledged within {timeout:g} s"]
    status = delivery.status
    if status is None:
        lines.append(f"it is {service_state(UNIT).summary}, and has not completed a first sample")
    elif wanted_version is not None and status.version != wanted_version:
        lines.append(printable(f"what runs is version {status.version}, and this is {wanted_version}"))
    elif status.error is not None:
        lines.append(printable(f"{status.server}: {status.error}"))
    elif status.server is not None:
        lines.append(printable(f"it is connecting to {status.server}"))
    lines += [f"log: {line}" for line in last_log_lines(UNIT)]
    lines.append(
        "The service stays: it keeps what it samples, and tries again. 'loiter-agent check' tells once that is mended; "
        "'loiter-agent uninstall' removes it."
    )
    return "\n".join(lines)


def _timeout(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SettingsError(f"--timeout: {error}") from None


def _settings(options: argparse.Namespace) -> AgentSettings:
    """What the service will have: the file that is there, and the flags. The environment of a shell is not its own."""
    flags = {
        "server": options.server and [one for server in options.server for one in server.split(",")],
        "interval": options.interval,
        "labels": options.label,
        "labels_file": options.labels_file,
        "insecure": options.insecure,
    }
    return load(AgentSettings, DEFAULT_FILE if DEFAULT_FILE.exists() else None, {}, flags)


def _given_files(options: argparse.Namespace) -> dict[str, Path | None]:
    given = (options.ca, options.certificate, options.key, options.token_file)
    return {name: None if file is None else Path(file) for name, file in zip(CREDENTIALS, given, strict=True)}


def _check_settings_name_no_other(settings: AgentSettings, files: Mapping[str, Path | None]) -> None:
    """A file that a setting names beats a credential."""
    flags = {entry.credential: entry.flag for entry in entries(AgentSettings)}
    for name, file in named_files(settings).items():
        if file is not None and files.get(name) is not None:
            raise InstallError(
                f"{DEFAULT_FILE} sets {CREDENTIALS[name]} = {str(file)!r}, which beats {flags[name]}: remove that line"
            )


def _request(options: argparse.Namespace, credentials: Mapping[str, bytes]) -> Request:
    package = packaged(_ROOT, UNIT)
    command = own_command("loiter_agent", sys.argv[0])
    if package is None and (reason := unreachable(places_of(command), _ELSEWHERE)):
        raise InstallError(reason)
    if options.labels_file is not None:
        _check_labels_file(Path(options.labels_file))
    labels = next(entry for entry in entries(AgentSettings) if entry.name == "labels").read(options.label or [])
    return Request(
        unit="" if package is not None else shipped(UNIT),
        command=command,
        packaged=package is not None,
        values=asked_values(options.server, options.interval, labels, options.labels_file, options.insecure),
        credentials=credentials,
        drop_ins=_drop_ins(options.opt_ins),
        start=not options.no_start,
        force=options.force,
    )


def _check_labels_file(file: Path) -> None:
    if not file.is_absolute():
        raise InstallError(f"--labels-file: {file} is not an absolute path, which the service needs")
    if (reason := unreachable([file.parent, file.resolve().parent], "put it to /etc/loiter")) is not None:
        raise InstallError(f"--labels-file: {reason}")
    if not file.exists():
        return
    status = file.stat()
    if status.st_uid != 0 or status.st_mode & 0o002:
        raise InstallError(
            f"--labels-file: {file} can be changed by others than root, and so could what the agent reads: chown root "
            "and chmod o-w"
        )


def _drop_ins(names: Sequence[str]) -> dict[str, str]:
    known = shipped_drop_ins(UNIT)
    missing = [name for name in names if name not in known]
    if missing:
        raise UnitError(f"this installation is not complete: the drop-in {missing[0]} is missing")
    return {name: shipped(known[name]) for name in names}


def _probe_servers(settings: AgentSettings, given: Mapping[str, Path | None], force: bool) -> None:
    """Tries the aggregators before anything is written. Raises InstallError where waiting would not mend it."""
    new = {name: file for name, file in given.items() if file is not None}
    stay = [name for name in CREDENTIALS if name not in displaced(new)]
    files = {**{name: credential(name) for name in stay if credential(name).exists()}, **new}
    tried = [probe(server, security(settings, files)) for server in settings.server]
    for one in tried:
        print(f"{one.server}: {one.words}" + ("" if one.verdict is Verdict.ADMITTED else _outlook(one)))
    if force or any(one.verdict is not Verdict.REFUSED for one in tried):
        return
    raise InstallError("no aggregator lets this agent in; nothing was changed (--force installs it nevertheless)")


def _outlook(one: Probe) -> str:
    return "" if one.verdict is Verdict.REFUSED else "; it is tried again, and reports are kept meanwhile"


def _plan(request: Request, timeout: float) -> tuple[Step, ...]:
    goal = wanted(request, found_files(_ROOT, (UNIT_FILE, DEFAULT_FILE)))
    files = found_files(_ROOT, [*(file.file for file in goal.files), *goal.absent])
    folders = found_folders(_ROOT, (folder.folder for folder in goal.folders))
    made = found_paths(_ROOT, goal.made_by_start)
    return plan(goal, Found(files, folders, service_state(UNIT), made, code_changed_at()), timeout)


def _fail(message: str) -> None:
    print(f"loiter-agent: {message}", file=sys.stderr)
    sys.exit(1)
