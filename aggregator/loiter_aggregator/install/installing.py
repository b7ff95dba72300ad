"""`loiter service install`, from its flags to what to do next."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from loiter.progress import waiting
from loiter.service_install.errors import InstallError
from loiter.service_install.look import found_files, found_folders, found_paths
from loiter.service_install.plan import Found, Wanted, apply, describe, log_of_start, plan
from loiter.service_install.preconditions import require_root, require_systemd
from loiter.service_install.steps import Step, StepFailed
from loiter.service_install.systemd import last_log_lines, service_state
from loiter.service_install.units import (
    code_changed_at,
    hidden_by,
    own_command,
    packaged,
    places_of,
    shipped,
    unreachable,
)
from loiter.settings import load
from loiter.text import printable
from loiter.tls_diagnosis import authorities_problem, validity
from loiter.transport import SecurityFileError, read_certificates
from loiter_aggregator.access import tokens
from loiter_aggregator.access.requirements import read_pair, token_file
from loiter_aggregator.config import DEFAULT_FILE, AggregatorSettings, TlsSettings
from loiter_aggregator.install.next_steps import next_steps, tokens_gone
from loiter_aggregator.install.places import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_REVOKED,
    CREDENTIALS,
    DEFAULT_DATA_DIR,
    FLEET_TOKEN,
    INGEST_TOKEN,
    OPERATOR_TOKEN,
    READ_TOKEN,
    REVOKED,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    SHIPPED_SYSUSERS,
    TRUST,
    UNIT,
    UNIT_FILE,
    credential,
)
from loiter_aggregator.install.secrets import is_signed_by, names_in
from loiter_aggregator.install.serving import Door, wait_until_serving
from loiter_aggregator.install.user import user_id
from loiter_aggregator.install.wanted import Present, Request, asked_values, check_names, wanted

_ROOT: Final = Path("/")
_WITHOUT_SYSTEMD: Final = "have your own supervisor run: loiter serve"
_ELSEWHERE: Final = (
    "install it where it is root's and everyone can read: python3 -m venv /opt/loiter && /opt/loiter/bin/pip install "
    "'loiter[aggregator]' && /opt/loiter/bin/loiter service install"
)


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given. `files` are by credential."""

    listen: str | None
    listen_readers: str | None
    http: str | None
    names: Sequence[str]
    files: Mapping[str, Path | None]
    data_dir: Path | None
    dry_run: bool
    start: bool
    timeout: float
    force: bool


def install(flags: Flags) -> None:
    """Installs the service. Raises SettingsError, and ClickException where it can not be done."""
    try:
        require_root("loiter service install")
        require_systemd(_WITHOUT_SYSTEMD)
        request = _request(flags)
        in_force = _tokens_in_force(request.settings)
        goal = _goal(request, in_force)
        steps = _plan(goal, flags.timeout)
        if flags.dry_run:
            click.echo(describe(steps) or "nothing to do")
            return
        if not steps:
            click.echo("nothing to do")
        apply(steps, _ROOT, click.echo)
    except StepFailed as error:
        raise click.ClickException("\n".join((str(error), *log_of_start(error, UNIT)))) from None
    except InstallError as error:
        raise click.ClickException(str(error)) from None
    if not flags.start:
        click.echo(f"installed; it starts with the next boot, or by: systemctl start {UNIT}")
        return
    door = _door(request)
    with waiting(f"waiting until it serves at {door.address}"):
        problem = wait_until_serving(door, flags.timeout)
    if problem is not None:
        raise click.ClickException(_not_serving(problem, flags.timeout))
    click.echo(f"{UNIT} is running, and serves at {request.settings.listen}{' by TLS' if door.certificate else ''}")
    ingest, read = INGEST_TOKEN.exists(), READ_TOKEN.exists()
    fleet, operator = ingest or FLEET_TOKEN in in_force, read or OPERATOR_TOKEN in in_force
    click.echo(next_steps(request.settings, door.name, fleet, operator, _trusts(door.certificate)))
    if gone := tokens_gone(in_force, ingest, read):
        click.echo(gone)


def _request(flags: Flags) -> Request:
    before = DEFAULT_FILE if DEFAULT_FILE.exists() else None
    present = load(AggregatorSettings, before, {}, {})
    usual = AggregatorSettings()
    set_before = [name for name in ("listen", "http") if getattr(present, name) != getattr(usual, name)]
    values = asked_values(
        flags.listen, flags.listen_readers, flags.http, flags.data_dir, flags.names, set_before if before else ()
    )
    settings = load(AggregatorSettings, before, {}, {name[0]: value for name, value in values.items()})
    package = packaged(_ROOT, UNIT)
    command = own_command("loiter_aggregator", sys.argv[0])
    if package is None and (reason := unreachable(places_of(command), _ELSEWHERE)):
        raise InstallError(reason)
    check_names(flags.names, settings)
    if flags.data_dir is not None:
        check_data_dir_is_seen(flags.data_dir)
    check_data_dir(settings.data_dir)
    _check_settings_name_no_other(settings.tls, flags.files, bool(flags.names))
    return Request(
        unit="" if package is not None else shipped(UNIT),
        sysusers="" if package is not None else shipped(SHIPPED_SYSUSERS),
        command=command,
        settings=settings,
        packaged=package is not None,
        values=values,
        names=flags.names or _names_of_before(settings.tls, flags.files),
        credentials=_credentials(flags.files),
        start=flags.start,
        force=flags.force,
    )


def check_data_dir_is_seen(folder: Path) -> None:
    """Raises InstallError where the unit hides it from the service."""
    if (hidden := hidden_by(folder)) is not None:
        raise InstallError(f"--data-dir: {folder} is under {hidden}, which the service does not see; choose another")


def check_data_dir(folder: Path) -> None:
    """It is the service's, and goes with it on a purge. Raises InstallError where it is somebody else's."""
    if not folder.is_absolute():
        raise InstallError(f"--data-dir: {folder} is not an absolute path, which the service needs")
    if folder == DEFAULT_DATA_DIR or not folder.exists():
        return
    if folder.stat().st_uid != user_id():
        raise InstallError(
            f"--data-dir: {folder} is there already, and not the folder of a store: name one that is not there yet"
        )


def _check_settings_name_no_other(tls: TlsSettings, files: Mapping[str, Path | None], names: bool) -> None:
    """A file that a setting names beats a credential."""
    named = dict(zip(CREDENTIALS, (tls.certificate, tls.key, tls.client_ca), strict=True))
    for name, file in named.items():
        if file is not None and (files.get(name) is not None or (names and name != "client-ca.pem")):
            raise InstallError(
                f"{DEFAULT_FILE} sets {CREDENTIALS[name]} = {str(file)!r}, which beats what is given here: remove that "
                "line"
            )


def _names_of_before(tls: TlsSettings, files: Mapping[str, Path | None]) -> list[str]:
    """The names of a certificate that was made here before, unless another one has come in its place since."""
    copy = credential("certificate.pem")
    if tls.certificate is not None or files.get("certificate.pem") is not None or not SERVER_CERTIFICATE.exists():
        return []
    ours = SERVER_CERTIFICATE.read_bytes()
    return names_in(ours) if not copy.exists() or copy.read_bytes() == ours else []


def _credentials(files: Mapping[str, Path | None]) -> dict[str, bytes]:
    certificate, key, ca = (files.get(name) for name in CREDENTIALS)
    read: dict[str, bytes] = {}
    try:
        pair = read_pair(TlsSettings(certificate=certificate, key=key))
        if pair is not None and certificate is not None:
            read["certificate.pem"], read["key.pem"] = pair
            period = validity(certificate)
            if period is not None and period[1] <= datetime.now(UTC):
                raise InstallError(f"{certificate} has expired on {period[1]:%Y-%m-%d}; have a new one made")
        if ca is not None:
            read["client-ca.pem"] = read_certificates(ca)
            if problem := authorities_problem(ca):
                raise InstallError(problem)
    except SecurityFileError as error:
        raise InstallError(str(error)) from None
    return read


def _goal(request: Request, tokens_in_force: frozenset[str]) -> Wanted:
    looked = (
        UNIT_FILE,
        DEFAULT_FILE,
        AUTHORITY_CERTIFICATE,
        AUTHORITY_REVOKED,
        REVOKED,
        SERVER_CERTIFICATE,
        SERVER_KEY,
        TRUST,
        INGEST_TOKEN,
        READ_TOKEN,
        *map(credential, CREDENTIALS),
    )
    there = request.settings.data_dir.is_dir()
    present = Present(found_files(_ROOT, looked), user_id() is not None, there, tokens_in_force)
    return wanted(request, present, datetime.now(UTC))


def _tokens_in_force(settings: AggregatorSettings) -> frozenset[str]:
    now = datetime.now(UTC)
    try:
        return frozenset(one.name for one in tokens.load(token_file(settings)) if one.refusal(now) is None)
    except tokens.TokenFileError as error:
        raise InstallError(str(error)) from None


def _plan(goal: Wanted, timeout: float) -> tuple[Step, ...]:
    files = found_files(_ROOT, [*(file.file for file in goal.files), *goal.absent])
    folders = found_folders(_ROOT, (folder.folder for folder in goal.folders))
    made = found_paths(_ROOT, goal.made_by_start)
    return plan(goal, Found(files, folders, service_state(UNIT), made, code_changed_at()), timeout)


def _door(request: Request) -> Door:
    settings, copy = request.settings, credential("certificate.pem")
    # Where agents have to show a certificate, readers have not.
    listen = settings.listen_readers or settings.listen
    certificate = settings.tls.certificate or (copy if copy.exists() else None)
    if certificate is None:
        return Door(listen)
    ours = SERVER_CERTIFICATE.exists() and SERVER_CERTIFICATE.read_bytes() == certificate.read_bytes()
    name = next(iter(names_in(certificate.read_bytes())), None)
    by_certificate = settings.tls.client_ca is not None or credential("client-ca.pem").exists()
    # Who has none can only look at the one that is shown.
    asks = by_certificate and settings.listen_readers is None
    return Door(listen, certificate, AUTHORITY_CERTIFICATE if ours and not asks else None, name)


def _trusts(certificate: Path | None) -> bool:
    """Whether the authority that is handed out vouches for it."""
    return certificate is not None and TRUST.exists() and is_signed_by(certificate.read_bytes(), TRUST.read_bytes())


def _not_serving(problem: str, timeout: float) -> str:
    lines = [f"{UNIT} is installed, but does not serve after {timeout:g} s: {printable(problem)}"]
    summary = service_state(UNIT).summary
    lines.append(f"it is {summary}")
    if summary.startswith("activating (start"):
        lines.append("It is still starting, as it may for long where it migrates a large store, and is left to go on.")
    lines += [f"log: {line}" for line in last_log_lines(UNIT)]
    return "\n".join(lines)
