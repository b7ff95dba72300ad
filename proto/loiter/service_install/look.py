"""Looks at the files of a host, below a root."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from loiter.service_install.steps import FoundFile, found_file, under


def found_files(root: Path, files: Iterable[Path]) -> dict[Path, FoundFile]:
    """Reads those of the files that are there."""
    looked = ((file, found_file(root, file)) for file in files)
    return {file: found for file, found in looked if found is not None}


def found_folders(root: Path, folders: Iterable[Path]) -> frozenset[Path]:
    """Those of the folders that are there."""
    return frozenset(folder for folder in folders if under(root, folder).is_dir())


def found_paths(root: Path, paths: Iterable[Path]) -> frozenset[Path]:
    """Those of the paths at which anything is, be it a link that leads nowhere."""
    return frozenset(path for path in paths if os.path.lexists(under(root, path)))


def files_in(root: Path, folder: Path, pattern: str = "*") -> Iterator[Path]:
    """Lists the files and links of a folder; none where there is no folder."""
    for file in sorted(under(root, folder).glob(pattern)):
        yield folder / file.name
