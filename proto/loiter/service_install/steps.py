"""The steps of a plan: each can be described, done, and undone.

Paths are those of the host; `root` is where its file system is, so that tests have one of their own.
"""

from __future__ import annotations

import errno
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Final, Protocol

from loiter.files import write_atomically
from loiter.service_install.errors import InstallError

_COMMAND_TIMEOUT_SECONDS: Final = 180.0


class StepFailed(InstallError):
    """A step could not be done. The message says what failed, where, and why."""

    def __init__(self, message: str, step: Step | None = None) -> None:
        """Takes the step besides, where it is known."""
        super().__init__(message)
        self.step = step


class Step(Protocol):
    """One thing to do."""

    def describe(self) -> str:
        """What it does, in a line; more lines show content."""

    def do(self, root: Path) -> None:
        """Does it. Raises StepFailed."""

    def undo(self, root: Path) -> None:
        """Puts back what was there before, also where it was done in part. Raises StepFailed."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it was found. `changed_at` is in seconds since the epoch, `owner` a user and a group."""

    content: bytes
    mode: int
    changed_at: float = 0.0
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Makes a folder, in one that is there. `owner` is the name of a user and of a group."""

    folder: Path
    mode: int
    owner: str | None = None

    def describe(self) -> str:
        """Names it."""
        owner = f", owned by {self.owner}" if self.owner else ""
        return f"make folder {self.folder} ({self.mode:04o}{owner})"

    def do(self, root: Path) -> None:
        """Makes it."""
        try:
            under(root, self.folder).mkdir(mode=self.mode)
            under(root, self.folder).chmod(self.mode)  # whatever the umask
            if self.owner is not None:
                shutil.chown(under(root, self.folder), self.owner, self.owner)
        except (OSError, LookupError) as error:
            raise StepFailed(f"cannot make {self.folder}: {_reason(error)}") from None

    def undo(self, root: Path) -> None:
        """Removes it, unless somebody has put something there."""
        with suppress(OSError):
            under(root, self.folder).rmdir()


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Writes a file, whole or not at all; it stays whose it was. The content of a secret one is not shown."""

    file: Path
    content: bytes = field(repr=False)
    mode: int
    before: FoundFile | None = field(default=None, repr=False)
    secret: bool = False

    def describe(self) -> str:
        """Names it, and shows what changes."""
        verb = "write" if self.before is None else "change"
        if self.secret:
            return f"{verb} {self.file} ({self.mode:04o}, {len(self.content)} bytes, not shown)"
        old = [] if self.before is None else _lines(self.before.content)
        new = _lines(self.content)
        shown = list(unified_diff(old, new, n=1, lineterm=""))[2:] if old else [f"+{line}" for line in new]
        return "\n".join([f"{verb} {self.file} ({self.mode:04o})", *(f"    {line}" for line in shown)])

    def do(self, root: Path) -> None:
        """Writes it."""
        _write(root, self.file, self.content, self.mode)

    def undo(self, root: Path) -> None:
        """Writes what was there before, or removes it."""
        _put_back(root, self.file, self.before)


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Removes a file or a symbolic link."""

    file: Path
    before: FoundFile | None = field(default=None, repr=False)

    def describe(self) -> str:
        """Names it."""
        return f"remove {self.file}"

    def do(self, root: Path) -> None:
        """Removes it."""
        _unlink(root, self.file)

    def undo(self, root: Path) -> None:
        """Writes it again."""
        if self.before is not None:
            _put_back(root, self.file, self.before)


@dataclass(frozen=True, slots=True)
class RemoveFolder:
    """Removes a folder: with all that is in it, or only if nothing is. What was in it does not come back.

    One that something is mounted on is emptied, and stays.
    """

    folder: Path
    with_content: bool = False

    def describe(self) -> str:
        """Names it."""
        return f"remove {self.folder}" + (" and all that is in it" if self.with_content else " if nothing is in it")

    def do(self, root: Path) -> None:
        """Removes it."""
        folder = under(root, self.folder)
        try:
            if self.with_content:
                shutil.rmtree(folder)
            elif not any(folder.iterdir()):
                folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.EBUSY and folder.is_mount():
                return
            raise StepFailed(f"cannot remove {self.folder}: {_reason(error)}") from None

    def undo(self, root: Path) -> None:
        """Does nothing: plans that remove folders go forward only."""


@dataclass(frozen=True, slots=True)
class Run:
    """Runs a command of the system, and other commands to undo it. `command` may be empty: then it only undoes.

    With `patience`, in seconds, it is one that only waits for what the system does: after that time it is ended, which
    is no failure, and what it waits for goes on.
    """

    command: tuple[str, ...]
    undo_by: tuple[tuple[str, ...], ...] = ()
    patience: float | None = None

    def describe(self) -> str:
        """The command as one would type it."""
        return f"run {shlex.join(self.command)}" if self.command else ""

    def do(self, root: Path) -> None:  # noqa: ARG002 - commands are those of the system
        """Runs it."""
        if self.command:
            _run(self.command, self.patience)

    def undo(self, root: Path) -> None:  # noqa: ARG002
        """Runs the commands that undo it; all of them, whatever becomes of each."""
        failures = []
        for command in self.undo_by:
            try:
                _run(command)
            except StepFailed as error:
                failures.append(str(error))
        if failures:
            raise StepFailed("; ".join(failures))


@dataclass(frozen=True, slots=True)
class LetStart:
    """Does nothing; when it is undone, what systemd has made for a service that it tried to start is removed."""

    made: tuple[Path, ...]

    def describe(self) -> str:
        """Nothing is to be said of it."""
        return ""

    def do(self, root: Path) -> None:
        """Does nothing."""

    def undo(self, root: Path) -> None:
        """Removes the folders, and links to them."""
        for path in self.made:
            if under(root, path).is_symlink():
                _unlink(root, path)
            else:
                RemoveFolder(path, with_content=True).do(root)


@dataclass(slots=True)
class Make:
    """Makes files by a function, which may raise OSError or InstallError; they are as before when it is undone."""

    title: str
    files: tuple[Path, ...]
    make: Callable[[Path], None] = field(repr=False)
    _before: dict[Path, FoundFile | None] = field(default_factory=dict, repr=False)

    def describe(self) -> str:
        """The title."""
        return self.title

    def do(self, root: Path) -> None:
        """Makes them."""
        try:
            self._before = {file: found_file(root, file) for file in self.files}
            self.make(root)
        except OSError as error:
            raise StepFailed(f"cannot {self.title}: {_reason(error)}") from None
        except InstallError as error:
            raise StepFailed(f"cannot {self.title}: {error}") from None

    def undo(self, root: Path) -> None:
        """Puts back what was there before."""
        for file, before in self._before.items():
            _put_back(root, file, before)


def under(root: Path, path: Path) -> Path:
    """The path below another root."""
    return root / path.relative_to("/")


def found_file(root: Path, file: Path) -> FoundFile | None:
    """Reads a file; None where there is none. Raises OSError where it can not be read."""
    target = under(root, file)
    try:
        status, content = target.stat(), target.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    changed_at = max(status.st_mtime, status.st_ctime)  # a copy may keep the time of an older file
    return FoundFile(content, status.st_mode & 0o7777, changed_at, (status.st_uid, status.st_gid))


def _run(command: tuple[str, ...], patience: float | None = None) -> None:
    timeout = _COMMAND_TIMEOUT_SECONDS if patience is None else patience
    try:
        done = subprocess.run(  # noqa: S603 - a list, and no shell
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        if patience is not None:
            return
        raise StepFailed(f"{shlex.join(command)} did not end within {timeout:.0f} s") from None
    except OSError as error:
        raise StepFailed(f"cannot run {command[0]}: {_reason(error)}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise StepFailed(f"{shlex.join(command)} failed ({done.returncode}){': ' if said else ''}{said}")


def _write(root: Path, file: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    try:
        write_atomically(under(root, file), content, mode, owner)
    except OSError as error:
        raise StepFailed(f"cannot write {file}: {_reason(error)}") from None


def _put_back(root: Path, file: Path, before: FoundFile | None) -> None:
    if under(root, file).is_symlink():
        return  # none is ever written
    if before is None:
        _unlink(root, file)
    else:
        _write(root, file, before.content, before.mode, before.owner)


def _unlink(root: Path, file: Path) -> None:
    try:
        under(root, file).unlink(missing_ok=True)
    except OSError as error:
        raise StepFailed(f"cannot remove {file}: {_reason(error)}") from None


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").splitlines()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
