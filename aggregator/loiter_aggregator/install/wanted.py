"""What an installed aggregator consists of, from what is asked for and what is there. Nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from loiter.addresses import is_loopback
from loiter.service_install.errors import InstallError
from loiter.service_install.plan import Wanted, WantedFile
from loiter.service_install.steps import FoundFile, MakeFolder, Run, Step
from loiter.service_install.toml_merge import Name, Value
from loiter.service_install.units import is_ours, make_unit, quoted
from loiter.service_install.wanted_files import settings_file, unit_files
from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.requirements import token_file
from loiter_aggregator.config import DEFAULT_FILE, AggregatorSettings
from loiter_aggregator.install.places import (
    AUTHORITY,
    AUTHORITY_CERTIFICATE,
    AUTHORITY_REVOKED,
    BACKUP_FILE,
    CREDSTORE,
    DATA_DIR_DROP_IN,
    DEFAULT_DATA_DIR,
    DROP_INS,
    FLEET_TOKEN,
    FOLDER,
    INGEST_TOKEN,
    OPERATOR_TOKEN,
    READ_TOKEN,
    REVOKED,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    SHIPPED_COMMAND,
    TRUST,
    UNIT,
    UNIT_FILE,
    USER,
    credential,
)
from loiter_aggregator.install.secrets import (
    hand_out_authority,
    is_signed_by,
    make_authority,
    make_server_certificate,
    make_token,
    names_to_certify,
)

_BY: Final = "loiter service install"
_HEADER: Final = "# Settings of the aggregator, read when it starts.\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `unit` and `sysusers` are the texts that come with this distribution."""

    unit: str
    sysusers: str
    command: Sequence[str]
    settings: AggregatorSettings
    packaged: bool = False
    values: Mapping[Name, Value] = field(default_factory=dict)
    names: Sequence[str] = ()
    credentials: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    start: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """What is there. `user` is whether the service's user is, `data_dir` whether the folder of the store is its.

    `tokens` are the names of those that are in force.
    """

    files: Mapping[Path, FoundFile]
    user: bool
    data_dir: bool
    tokens: frozenset[str] = frozenset()


def asked_values(
    listen: str | None,
    listen_readers: str | None,
    http: str | None,
    data_dir: Path | None,
    names: Sequence[str],
    set_before: Collection[str] = (),
) -> dict[Name, Value]:
    """The settings that flags ask for, as they stand in the file.

    With a name it is to be reached from elsewhere: so it listens everywhere, unless where is `set_before`.
    """
    values: dict[Name, Value] = {}
    if listen is not None:
        values["listen",] = listen
    elif names and "listen" not in set_before:
        values["listen",] = "0.0.0.0:7433"
    if http is not None:
        values["http",] = http
    elif names and "http" not in set_before:
        values["http",] = "0.0.0.0:7434"
    if listen_readers is not None:
        values["listen_readers",] = listen_readers
    if data_dir is not None:
        values["data_dir",] = str(data_dir)
    return values


def check_names(names: Sequence[str], settings: AggregatorSettings) -> None:
    """Raises InstallError where a certificate for these names would serve nobody."""
    if names and not is_open(settings):
        raise InstallError(
            f"--name is for others to reach this machine by, and {settings.listen} is for this machine alone: leave "
            "out --name, or give --listen 0.0.0.0:7433"
        )


def wanted(request: Request, present: Present, now: datetime) -> Wanted:
    """Says what is to be there.

    Raises:
        InstallError: A file that is there can not be changed, or is somebody else's, or strangers could get in.
    """
    found = present.files
    if request.names and not request.force:
        _check_certificate_is_ours(found)
    prepare = [*_user(request, present), *_secrets(request, present, now)]
    values, lists = _revocations(request, found)
    files = [settings_file(DEFAULT_FILE, _HEADER, {**request.values, **values}, found.get(DEFAULT_FILE)), *lists]
    files += [WantedFile(credential(name), text, 0o600, secret=True) for name, text in request.credentials.items()]
    folders = [MakeFolder(FOLDER, 0o755)]
    if request.names or request.credentials:
        folders.append(MakeFolder(CREDSTORE, 0o700))
    if request.names:
        folders.append(MakeFolder(AUTHORITY, 0o700))
        files += _copies(request.names, found, now)
    data_dir = request.settings.data_dir
    if data_dir != DEFAULT_DATA_DIR:
        folders.append(MakeFolder(DROP_INS, 0o755))
        files.append(WantedFile(DATA_DIR_DROP_IN, f"[Service]\nReadWritePaths={quoted(str(data_dir))}\n".encode()))
    absent: tuple[Path, ...] = ()
    if not request.packaged:
        content = make_unit(request.unit, SHIPPED_COMMAND, request.command, _BY)
        files += unit_files(UNIT_FILE, content, found.get(UNIT_FILE), _BY, BACKUP_FILE, force=request.force)
    elif UNIT_FILE in found and is_ours(found[UNIT_FILE].content):
        absent = (UNIT_FILE,)  # it would hide that of the package
    made_by_start = tuple(dict.fromkeys((data_dir, DEFAULT_DATA_DIR)))
    return Wanted(UNIT, tuple(folders), tuple(files), absent, tuple(prepare), request.start, made_by_start)


def is_open(settings: AggregatorSettings) -> bool:
    """Whether others than this machine can connect."""
    doors = (settings.listen, settings.listen_readers, settings.http)
    return any(not is_loopback(one) for one in doors if one is not None)


def _user(request: Request, present: Present) -> list[Step]:
    steps: list[Step] = []
    if not present.user:
        line = next(line for line in request.sysusers.splitlines() if line.startswith("u "))
        steps.append(Run(("systemd-sysusers", "--inline", line), (("userdel", USER),)))
    if not present.data_dir:  # tokens are put there before the service starts
        steps.append(MakeFolder(request.settings.data_dir, 0o700, USER))
    return steps


def _secrets(request: Request, present: Present, now: datetime) -> list[Step]:
    """What lets others in, where the aggregator is open to others."""
    settings, found = request.settings, present.files
    encrypted = bool(request.names or request.credentials) or credential("certificate.pem") in found
    if not is_open(settings) or settings.insecure:
        return []
    if not encrypted and settings.tls.certificate is None:
        raise InstallError(
            f"{settings.listen} is open to others, and nothing would be encrypted: give --name, by which others reach "
            "this machine, to have a certificate made, or --certificate and --key"
        )
    steps: list[Step] = []
    if request.names:
        if AUTHORITY_CERTIFICATE not in found:
            steps.append(make_authority())
        if certify := _to_certify(request.names, found.get(SERVER_CERTIFICATE), now):
            steps.append(make_server_certificate(certify))
        if TRUST not in found:
            steps.append(hand_out_authority())
    tokens = token_file(settings)
    by_certificate = _asks_for_certificates(request, found)
    # One that is in force and gone from here was handed out: it can not be written again.
    if INGEST_TOKEN not in found and FLEET_TOKEN not in present.tokens and not by_certificate:
        steps.append(make_token(tokens, FLEET_TOKEN, Right.INGEST, INGEST_TOKEN))
    if READ_TOKEN not in found and OPERATOR_TOKEN not in present.tokens:
        steps.append(make_token(tokens, OPERATOR_TOKEN, Right.READ, READ_TOKEN))
    return steps


def _asks_for_certificates(request: Request, found: Mapping[Path, FoundFile]) -> bool:
    name = "client-ca.pem"
    return request.settings.tls.client_ca is not None or name in request.credentials or credential(name) in found


def _revocations(request: Request, found: Mapping[Path, FoundFile]) -> tuple[dict[Name, Value], list[WantedFile]]:
    """Where agents show certificates: the setting that names the list of those that are refused, and a list."""
    named = request.settings.tls.revoked
    if not _asks_for_certificates(request, found) or named not in (None, REVOKED):
        return {}, []
    before = found.get(AUTHORITY_REVOKED)
    lists = [] if REVOKED in found else [WantedFile(REVOKED, b"" if before is None else before.content)]
    return ({("tls", "revoked"): str(REVOKED)} if named is None else {}), lists


def _check_certificate_is_ours(found: Mapping[Path, FoundFile]) -> None:
    """Raises InstallError where the service has a certificate that no authority of ours has signed."""
    file = credential("certificate.pem")
    certificate, authority = found.get(file), found.get(AUTHORITY_CERTIFICATE)
    if certificate is None or (authority is not None and is_signed_by(certificate.content, authority.content)):
        return
    raise InstallError(
        f"--name would replace {file} and its key, which were not made here: leave it out, or give --force"
    )


def _copies(names: Sequence[str], found: Mapping[Path, FoundFile], now: datetime) -> list[WantedFile]:
    """What the service is given of a certificate that was made before and will do."""
    originals = {"certificate.pem": found.get(SERVER_CERTIFICATE), "key.pem": found.get(SERVER_KEY)}
    if _to_certify(names, originals["certificate.pem"], now):
        return []
    return [
        WantedFile(credential(name), original.content, 0o600, secret=True)
        for name, original in originals.items()
        if original is not None
    ]


def _to_certify(names: Sequence[str], before: FoundFile | None, now: datetime) -> list[str]:
    try:
        return names_to_certify(None if before is None else before.content, names, now)
    except ValueError as error:
        raise InstallError(f"{SERVER_CERTIFICATE} can not be read: {error}") from None
