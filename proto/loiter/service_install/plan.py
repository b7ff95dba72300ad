"""From what is there to what is wanted: the steps, and how they are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loiter.progress import waiting
from loiter.service_install.steps import (
    FoundFile,
    LetStart,
    MakeFolder,
    RemoveFile,
    RemoveFolder,
    Run,
    Step,
    StepFailed,
    WriteFile,
)
from loiter.service_install.systemd import ServiceState, last_log_lines

UNIT_FOLDER = Path("/etc/systemd/system")


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file as it is to be."""

    file: Path
    content: bytes = field(repr=False)
    mode: int = 0o644
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A service as it is to be. `folders` come before what is in them; `prepare` goes between files and the start.

    With `start` it runs when all is done; without, it is enabled for the next boot alone. `made_by_start` are folders,
    and links to them, that systemd makes as it starts.
    """

    unit: str
    folders: tuple[MakeFolder, ...] = ()
    files: tuple[WantedFile, ...] = ()
    absent: tuple[Path, ...] = ()
    prepare: tuple[Step, ...] = ()
    start: bool = True
    made_by_start: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What is there of it. `made_by_start` are those of the paths of that name at which anything is.

    `code_changed_at` is when the program was installed, in seconds since the epoch: one that runs from before is old.
    """

    files: Mapping[Path, FoundFile]
    folders: frozenset[Path]
    service: ServiceState
    made_by_start: frozenset[Path] = frozenset()
    code_changed_at: float = 0.0


def plan(wanted: Wanted, found: Found, patience: float = 60.0) -> tuple[Step, ...]:
    """The steps from what is there to what is wanted; none where nothing is to be done.

    A start is waited for, `patience` seconds at most: one that takes longer, as where an aggregator migrates its store,
    has not failed.
    """
    folders: list[Step] = [folder for folder in wanted.folders if folder.folder not in found.folders]
    files: list[Step] = []
    for file in wanted.files:
        before = found.files.get(file.file)
        if before is None or (before.content, before.mode) != (file.content, file.mode):
            files.append(WriteFile(file.file, file.content, file.mode, before, file.secret))
    files += [RemoveFile(file, found.files[file]) for file in wanted.absent if file in found.files]
    changes: list[Step] = [*folders, *files, *wanted.prepare]
    service = found.service
    reload = service.needs_reload or any(_is_of_unit(step) for step in files)
    # What is in force is what was there when it started.
    times = [found.code_changed_at]
    times += [found.files[file.file].changed_at for file in wanted.files if file.file in found.files]
    newer = max(times) > service.started_at
    steps: list[Step] = list(changes)
    if reload:
        steps.append(Run(("systemctl", "daemon-reload")))
    if not service.enabled:
        steps.append(Run(("systemctl", "enable", wanted.unit), (("systemctl", "disable", wanted.unit),)))
    old = bool(changes or reload or newer)
    if wanted.start and (old or not service.active):
        steps.append(LetStart(tuple(path for path in wanted.made_by_start if path not in found.made_by_start)))
        verb = "restart" if old else "start"  # which waits for a start that is going on
        steps.append(Run(("systemctl", verb, wanted.unit), _stopped(wanted.unit), patience))
    if not steps:
        return ()
    # Undone last of all: once the files of before are back, so is the service of before.
    back: list[tuple[str, ...]] = [("systemctl", "daemon-reload")]
    if service.active:
        back.append(("systemctl", "restart", wanted.unit))
    return Run((), tuple(back)), *steps


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to go of a service. `folders` go if nothing is left in them, `trees` with all that is in them."""

    unit: str
    files: tuple[Path, ...] = ()
    trees: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    users: tuple[str, ...] = ()


def removal_plan(removal: Removal, service: ServiceState) -> tuple[Step, ...]:
    """The steps that remove what is there; none where nothing is. A folder goes after what is in it."""
    steps: list[Step] = []
    if service.loaded and (service.active or service.summary.startswith(("activating", "deactivating"))):
        steps.append(Run(("systemctl", "stop", removal.unit)))
    if service.enabled:
        steps.append(Run(("systemctl", "disable", removal.unit)))
    if service.summary.startswith("failed"):  # it would be listed for as long as the machine runs
        steps.append(Run(("systemctl", "reset-failed", removal.unit)))
    steps += [RemoveFile(file) for file in removal.files]
    steps += [RemoveFolder(tree, with_content=True) for tree in removal.trees]
    steps += [RemoveFolder(folder) for folder in removal.folders]
    if any(_is_of_unit(step) for step in steps):
        steps.append(Run(("systemctl", "daemon-reload")))
    steps += [Run(("userdel", user)) for user in removal.users]
    return tuple(steps)


def apply(steps: Sequence[Step], root: Path, say: Callable[[str], None]) -> None:
    """Takes the steps in turn. Where one fails, or is interrupted, undoes it and those before it.

    Raises:
        StepFailed: What failed, and whether all was undone.
    """
    for index, step in enumerate(steps):
        if title := step.describe().partition("\n")[0]:
            say(title)
        try:
            with waiting(title):
                step.do(root)
        except BaseException as error:
            left = _undo(steps[: index + 1], root)
            if not isinstance(error, StepFailed):  # Ctrl-C, say
                raise
            outcome = "what was done is undone" if not left else f"not all could be undone: {'; '.join(left)}"
            raise StepFailed(f"{error}\n{outcome}", step) from None


def apply_forward(steps: Sequence[Step], root: Path, say: Callable[[str], None]) -> None:
    """Takes the steps in turn, and stops where one fails: what removes things is run again, not undone.

    Raises:
        StepFailed: What failed.
    """
    for step in steps:
        if title := step.describe().partition("\n")[0]:
            say(title)
        with waiting(title):
            step.do(root)


def describe(steps: Sequence[Step]) -> str:
    """All that would be done, with the content of files."""
    return "\n".join(text for text in (step.describe() for step in steps) if text)


def log_of_start(failure: StepFailed, unit: str) -> list[str]:
    """What a unit has logged last, where it was its start that failed; else nothing."""
    step = failure.step
    if isinstance(step, Run) and step.command[:2] in (("systemctl", "restart"), ("systemctl", "start")):
        return [f"log: {line}" for line in last_log_lines(unit)]
    return []


def _stopped(unit: str) -> tuple[tuple[str, ...], ...]:
    """The commands that stop a unit, and have systemd forget that it failed."""
    return ("systemctl", "stop", unit), ("systemctl", "reset-failed", unit)


def _undo(steps: Sequence[Step], root: Path) -> list[str]:
    left = []
    for step in reversed(steps):
        try:
            step.undo(root)
        except StepFailed as error:
            left.append(str(error))
    return left


def _is_of_unit(step: Step) -> bool:
    return isinstance(step, WriteFile | RemoveFile) and step.file.is_relative_to(UNIT_FOLDER)
