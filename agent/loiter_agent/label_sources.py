"""Where the labels of this host come from: the settings, a file, and a command, each read once."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loiter.limits import MAX_LABELS
from loiter.settings import SettingsError, label_lines
from loiter.text import printable
from loiter_agent.config import AgentSettings
from loiter_agent.label_command import CommandError, run_command, split_command

Pairs = tuple[tuple[str, str], ...]
# What of a file tells that it has changed; None where it is not there.
Mark = tuple[int, ...] | None

_MAX_FILE_BYTES: Final = 64 << 10


def labels_now(settings: AgentSettings) -> tuple[Pairs, str | None]:
    """Reads all sources once. Returns the labels, and what keeps those of the command from being among them.

    Raises SettingsError.
    """
    words = command_words(settings)
    labels = read_file(settings.labels_file) | dict(settings.labels)
    check_number(labels)
    try:
        all_labels = run_command(words) | labels if words else labels
        check_number(all_labels)
    except (CommandError, SettingsError) as error:
        return tuple(labels.items()), f"labels_command ({printable(words[0])}): {error}"
    return tuple(all_labels.items()), None


def command_words(settings: AgentSettings) -> tuple[str, ...]:
    """The command, by its words; none where there is no command. Raises SettingsError."""
    try:
        return split_command(settings.labels_command) if settings.labels_command is not None else ()
    except ValueError as error:
        raise SettingsError(f"labels_command: {error}") from None


def check_number(labels: Mapping[str, str]) -> None:
    """Raises SettingsError where they are more than a host may have."""
    if len(labels) > MAX_LABELS:
        raise SettingsError(
            f"{len(labels)} labels in all, of labels, labels_file and labels_command; a host has at most {MAX_LABELS}"
        )


def file_mark(file: Path | None) -> Mark:
    """Looks whether a file has changed: then it has another mark."""
    if file is None:
        return None
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_file(file: Path | None) -> dict[str, str]:
    """Reads the labels of a file, of which there are none where there is no file to be read. Raises SettingsError."""
    if file is None:
        return {}
    shown = printable(str(file))
    try:
        with open(file, "rb", opener=_open) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SettingsError(f"labels_file: {shown} is no file; labels that a program makes: labels_command")
            content = stream.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise SettingsError(
                f"labels_file: {shown} is larger than {_MAX_FILE_BYTES:,} bytes; labels are a line each"
            )
        return label_lines(content.decode("utf-8"), f"{shown}:", quote=False)
    except OSError as error:
        raise SettingsError(f"labels_file: cannot read {shown}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"labels_file: {shown}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise SettingsError(f"labels_file: {error}") from None


def _open(file: str, flags: int) -> int:
    return os.open(file, flags | os.O_NONBLOCK)  # a pipe that nobody writes to would hold everything up
