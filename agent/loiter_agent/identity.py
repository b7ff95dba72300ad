"""Says what a process is called, whose it is and what it belongs to. psutil reads; the naming rules are here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import psutil

from loiter_agent.procfs import ProcessVanished, Procfs, Unreadable, parse_systemd_cgroup
from loiter_agent.sample import ProcessKey

Value = TypeVar("Value")

# Interpreters, those of their options that stand alone, and those that take the next argument. A script is looked for
# behind such options only: what follows any other may be code or a secret, and is not to be sent.
_INTERPRETERS: Final = tuple(
    (re.compile(interpreter), re.compile(alone), re.compile(with_value))
    for interpreter, alone, with_value in (
        (r"(python|pypy)[0-9.]*", r"-[bBdEiIOPqsSuvx]+|-[WX].+", r"-[WX]"),
        (r"perl[0-9.]*", r"-[wWtTU]+|-I.+", r"-I"),
        (r"ruby[0-9.]*", r"-[wWvd]+|-I.+", r"-I"),
        (
            r"node|nodejs",
            r"--(enable-source-maps|no-warnings|expose-gc)|--[a-z0-9-]+=.*",
            r"-r|--require|--import|--loader",
        ),
        (r"php[0-9.]*|lua[0-9.]*", r"(?!)", r"(?!)"),
        (r"bash|dash|sh|zsh|ksh", r"-[euxvfl]+|--(login|norc|noprofile|posix)", r"(?!)"),
    )
)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What a process is. `user` is None where it can not be read."""

    start_time: datetime
    name: str
    app: str
    user: str | None


class Identities:
    """Looks processes up and keeps what it found until they end, execute another program or change their user."""

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs to read cgroups from."""
        self._procfs = procfs
        # What it was called and whose it was when it was looked up, and what was found.
        self._known: dict[ProcessKey, tuple[str, int | None, ProcessIdentity]] = {}

    def of(self, key: ProcessKey, comm: str) -> ProcessIdentity:
        """Identifies a process that is called `comm` at the moment. One that has ended keeps the name `comm`."""
        known = self._known.get(key)
        owner = self._procfs.owner(key.pid)
        if known is not None and known[:2] == (comm, owner):
            return known[2]
        # The start time is reckoned once, so that a clock that is set later does not make it another process.
        start_time = known[2].start_time if known is not None else _start_time(key)
        identity = self._look_up(key, comm, start_time)
        self._known[key] = (comm, owner, identity)
        return identity

    def forget_all_but(self, processes: Collection[ProcessKey]) -> None:
        """Forgets processes that are gone."""
        self._known = {key: known for key, known in self._known.items() if key in processes}

    def _look_up(self, key: ProcessKey, comm: str, start_time: datetime) -> ProcessIdentity:
        try:
            process = psutil.Process(key.pid)
        except psutil.Error:
            return ProcessIdentity(start_time, comm, comm, None)
        executable = _readable(process.exe) or ""
        arguments = _readable(process.cmdline) or []
        try:
            cgroup = parse_systemd_cgroup(self._procfs.cgroup(key.pid)) or ""
        except (ProcessVanished, Unreadable, OSError):
            cgroup = ""
        return ProcessIdentity(
            start_time=start_time,
            name=_utf8(_readable(process.name) or comm),
            app=_utf8(app_name(cgroup, executable, arguments, comm)),
            user=_readable(process.username),
        )


def app_name(cgroup: str, executable: str, arguments: Sequence[str], comm: str) -> str:
    """Names what a process belongs to: its systemd service, else its executable, or the script it interprets.

    Args:
        cgroup: The path that parse_systemd_cgroup yields, or "".
        executable: The target of /proc/PID/exe, or "".
        arguments: The command line; nothing of it is used but the name of a script or module.
        comm: The command name, which stands in where nothing else can be read.
    """
    unit = service_unit(cgroup)
    if unit is not None:
        return unit
    program = os.path.basename(executable.removesuffix(" (deleted)"))
    if not program:
        return comm
    for interpreter, alone, with_value in _INTERPRETERS:
        if interpreter.fullmatch(program):
            modules = program.startswith(("python", "pypy"))
            return _script(arguments[1:], alone, with_value, modules) or program
    return program


def service_unit(cgroup: str) -> str | None:
    """Finds the systemd service in a cgroup path: the innermost, for those that a user's own manager runs."""
    for part in reversed(cgroup.split("/")):
        if part.endswith(".service") and not part.startswith("user@"):
            return _unescaped(part)
    return None


def _unescaped(unit: str) -> str:
    """Undoes the escapes of systemd.unit(5), which stand for bytes."""
    plain = re.sub(rb"\\x([0-9a-f]{2})", lambda escape: bytes([int(escape[1], 16)]), os.fsencode(unit))
    return plain.decode("utf-8", "replace")


def _script(arguments: Sequence[str], alone: re.Pattern[str], with_value: re.Pattern[str], modules: bool) -> str | None:
    """Finds the script among the arguments of an interpreter; None where it is not plain to see."""
    rest = iter(arguments)
    for argument in rest:
        if modules and argument == "-m":
            return next(rest, None)
        if with_value.fullmatch(argument):
            next(rest, None)
        elif argument.startswith("-"):
            if not alone.fullmatch(argument):
                return None
        # A script on a descriptor has no name.
        elif argument.startswith(("/dev/", "/proc/")):
            return None
        else:
            return os.path.basename(argument) or None
    return None


def _utf8(text: str) -> str:
    """Replaces the lone surrogates that stand for bytes that are not UTF-8: no JSON parser takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _start_time(key: ProcessKey) -> datetime:
    seconds = psutil.boot_time() + key.start_ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(seconds, UTC)


def _readable(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except (psutil.Error, OSError):
        return None
