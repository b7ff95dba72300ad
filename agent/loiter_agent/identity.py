"""Says what a process is called, whose it is and what it belongs to. psutil reads; the naming rules are here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

import psutil

from loiter.limits import MAX_STRING_CHARS
from loiter_agent.procfs import Procfs, parse_cgroups, parse_systemd_cgroup
from loiter_agent.sample import Container, ProcessKey

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


# What container runtimes call the cgroup of a container, the id or name being the group, with the systemd or the
# cgroupfs driver. Those of their monitors (conmon) and of virtual machines are none.
_HEX_ID: Final = r"([0-9a-f]{64})"
_CONTAINERS: Final = tuple(
    (runtime, re.compile(pattern))
    for runtime, pattern in (
        ("docker", rf"docker-{_HEX_ID}\.scope"),
        ("containerd", rf"(?:.+:)?(?:cri-containerd|nerdctl)[-:]{_HEX_ID}(?:\.scope)?"),
        ("podman", rf"libpod-(?:payload-)?{_HEX_ID}(?:\.scope)?"),
        ("cri-o", rf"crio-{_HEX_ID}(?:\.scope)?"),
        ("nspawn", r"machine-(?!qemu\\x2d|lxc\\x2d)(.+)\.scope"),
        ("nspawn", r"systemd-nspawn@(.+)\.service"),
        ("lxc", r"lxc\.payload\.(.+)"),
    )
)
_BARE_ID: Final = re.compile(_HEX_ID)
# A pod's cgroup: pod<uid>, or a slice, in which dashes of the uid are underscores. Of a static pod it has none.
_POD: Final = re.compile(r"(?:.+-)?pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice(?::.*)?)?")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What a process is. `user` is None where it can not be read, `arguments` where they are not asked for, too."""

    start_time: datetime
    name: str
    app: str
    user: str | None
    container: Container | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found, and what tells that it does not hold any more: execve(2) and setuid(2) change one of these."""

    comm: str
    owner: int | None
    executable: str
    identity: ProcessIdentity
    looked_up: bool = True


class Identities:
    """Looks processes up and keeps what it found until they end, execute another program or change their user."""

    def __init__(self, procfs: Procfs, arguments: bool = False) -> None:
        """Takes the procfs to read from. Only with `arguments` are command lines part of what is found."""
        self._procfs = procfs
        self._arguments = arguments
        self._known: dict[ProcessKey, _Known] = {}

    def configure(self, arguments: bool) -> None:
        """Changes whether command lines are part of what is found, also of processes that are known already."""
        if arguments != self._arguments:
            self._arguments = arguments
            self._known = {key: replace(known, looked_up=False) for key, known in self._known.items()}

    def of(self, key: ProcessKey, comm: str) -> ProcessIdentity:
        """Identifies a process that is called `comm` at the moment. One that has ended keeps the name `comm`."""
        known = self._known.get(key)
        owner, executable = self._procfs.owner(key.pid), self._executable(key.pid)
        if known is not None and known.looked_up:
            if (known.comm, known.owner, known.executable) == (comm, owner, executable):
                return known.identity
            if known.comm == comm and not executable:  # it is about to end, and what it was can not be read any more
                return known.identity
        # The start time is reckoned once, so that a clock that is set later does not make it another process.
        start_time = known.identity.start_time if known is not None else _start_time(key)
        # Amid execve(2), a process has its new executable and no command line yet.
        arguments = _readable(lambda: self._procfs.command_line(key.pid)) or []
        identity = self._look_up(key, comm, executable, arguments, start_time)
        self._known[key] = _Known(comm, owner, executable, identity, looked_up=bool(arguments) or not executable)
        return identity

    def forget_all_but(self, processes: Collection[ProcessKey]) -> None:
        """Forgets processes that are gone."""
        self._known = {key: known for key, known in self._known.items() if key in processes}

    def _look_up(
        self, key: ProcessKey, comm: str, executable: str, arguments: Sequence[str], start_time: datetime
    ) -> ProcessIdentity:
        try:
            process = psutil.Process(key.pid)
        except psutil.Error:
            return ProcessIdentity(start_time, comm, comm, None)
        cgroup = _telling_cgroup(_readable(lambda: self._procfs.cgroup(key.pid)) or b"")
        return ProcessIdentity(
            start_time=start_time,
            name=_utf8(_readable(process.name) or comm),
            app=_utf8(app_name(cgroup, executable, arguments, comm)),
            user=_readable(process.username),
            container=container_of(cgroup),
            arguments=_utf8(" ".join(arguments))[:MAX_STRING_CHARS] if self._arguments and arguments else None,
        )

    def _executable(self, pid: int) -> str:
        return _readable(lambda: self._procfs.executable(pid)) or ""


def _telling_cgroup(text: bytes) -> str:
    """Chooses a path from /proc/PID/cgroup: where systemd keeps its units, unless only another tells the container."""
    systemd = parse_systemd_cgroup(text) or ""
    return next((path for path in (systemd, *parse_cgroups(text)) if container_of(path) is not None), systemd)


def container_of(cgroup: str) -> Container | None:
    """Finds the container in a cgroup path: the innermost."""
    found = _innermost_container(cgroup.split("/"))
    return found[1] if found is not None else None


def _innermost_container(parts: Sequence[str]) -> tuple[int, Container] | None:
    """Finds the container, and which of the parts of the path is its own."""
    for index in reversed(range(len(parts))):
        found = _container(parts[index])
        bare = _BARE_ID.fullmatch(parts[index])
        if found is None and bare is None:
            continue
        pods = (_POD.fullmatch(part) for part in reversed(parts[: index + 1]))
        pod = next((pod[1].replace("_", "-") for pod in pods if pod is not None), None)
        # With the cgroupfs driver the id stands alone: in a pod it is containerd's as a rule, else docker's.
        runtime, name = found or ("docker" if pod is None else "containerd", parts[index])
        return index, Container(runtime, name[:12] if re.search(_HEX_ID, name) else name[:MAX_STRING_CHARS], pod)
    return None


def _container(part: str) -> tuple[str, str] | None:
    """Reads runtime and id or name of a container from the name of its cgroup."""
    for runtime, pattern in _CONTAINERS:
        match = pattern.fullmatch(part)
        if match is not None:
            return runtime, _unescaped(match[1])
    return None


def app_name(cgroup: str, executable: str, arguments: Sequence[str], comm: str) -> str:
    """Names what a process belongs to: its systemd service, else its executable, or the script it interprets.

    In a container, the service is one of the container, and the runtime stands before the program: "docker:nginx". The
    id is left out, so that what many hosts run has one name.

    Args:
        cgroup: The path of a hierarchy in which systemd keeps its units, or that tells the container, or "".
        executable: The target of /proc/PID/exe, or "".
        arguments: The command line; nothing of it is used but the name of a script or module.
        comm: The command name, which stands in where nothing else can be read.
    """
    parts = cgroup.split("/")
    found = _innermost_container(parts)
    if found is None:
        return service_unit(cgroup) or _program(executable, arguments, comm)
    index, container = found
    unit = service_unit("/".join(parts[index + 1 :]))
    return unit or f"{container.runtime}:{_program(executable, arguments, comm)}"


def _program(executable: str, arguments: Sequence[str], comm: str) -> str:
    """Names the executable of a process, or the script it interprets."""
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
