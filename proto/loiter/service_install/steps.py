"""The steps of a plan: each can be described, done, and undone.

Paths are those of the host; `root` is where its file system is, so that tests have one of their own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, Protocol

from loiter.service_install.errors import InstallError

# A service starts within TimeoutStartSec= of its unit, or systemd gives up first.
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
    """A file as it was found. `changed_at` is in seconds since the epoch."""

    content: bytes
    mode: int
    changed_at: float = 0.0


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
    """Writes a file, whole or not at all. The content of a secret one is not shown."""

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
        if self.before is not None:
            _write(root, self.file, self.before.content, self.before.mode)
        else:
            _unlink(root, self.file)


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
            _write(root, self.file, self.before.content, self.before.mode)


@dataclass(frozen=True, slots=True)
class RemoveFolder:
    """Removes a folder: with all that is in it, or only if nothing is. What was in it does not come back."""

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
            raise StepFailed(f"cannot remove {self.folder}: {_reason(error)}") from None

    def undo(self, root: Path) -> None:
        """Does nothing: plans that remove folders go forward only."""


@dataclass(frozen=True, slots=True)
class Run:
    """Runs a command of the system, and other commands to undo it. `command` may be empty: then it only undoes."""

    command: tuple[str, ...]
    undo_by: tuple[tuple[str, ...], ...] = ()

    def describe(self) -> str:
        """The command as one would type it."""
        return f"run {shlex.join(self.command)}" if self.command else ""

    def do(self, root: Path) -> None:  # noqa: ARG002 - commands are those of the system
        """Runs it."""
        if self.command:
            _run(self.command)

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
    _before: dict[Path, tuple[FoundFile, int, int] | None] = field(default_factory=dict, repr=False)

    def describe(self) -> str:
        """The title."""
        return self.title

    def do(self, root: Path) -> None:
        """Makes them."""
        try:
            self._before = {file: _look(root, file) for file in self.files}
            self.make(root)
        except OSError as error:
            raise StepFailed(f"cannot {self.title}: {_reason(error)}") from None
        except InstallError as error:
            raise StepFailed(f"cannot {self.title}: {error}") from None

    def undo(self, root: Path) -> None:
        """Puts back what was there before."""
        for file, before in self._before.items():
            if before is None:
                _unlink(root, file)
            else:
                found, user, group = before
                _write(root, file, found.content, found.mode, (user, group))


def under(root: Path, path: Path) -> Path:
    """The path below another root."""
    return root / path.relative_to("/")


def _run(command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - a list, and no shell
            command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise StepFailed(f"{shlex.join(command)} did not end within {_COMMAND_TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise StepFailed(f"cannot run {command[0]}: {_reason(error)}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise StepFailed(f"{shlex.join(command)} failed ({done.returncode}){': ' if said else ''}{said}")


def _look(root: Path, file: Path) -> tuple[FoundFile, int, int] | None:
    try:
        status = under(root, file).stat()
        return FoundFile(under(root, file).read_bytes(), status.st_mode & 0o7777), status.st_uid, status.st_gid
    except FileNotFoundError:
        return None


def _write(root: Path, file: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replaces a file: it is on the disk when this returns, and after a crash it holds the old content or the new."""
    target = under(root, file)
    try:
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream:
            try:
                os.fchmod(stream.fileno(), mode)
                if owner is not None:
                    os.fchown(stream.fileno(), *owner)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(stream.name, target)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StepFailed(f"cannot write {file}: {_reason(error)}") from None


def _unlink(root: Path, file: Path) -> None:
    try:
        under(root, file).unlink(missing_ok=True)
    except OSError as error:
        raise StepFailed(f"cannot remove {file}: {_reason(error)}") from None


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").splitlines()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
