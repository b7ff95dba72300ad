"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile


def write_atomically(file: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replaces a file. It is on the disk when this returns, and after a crash it holds the old content or the new.

    It belongs to `owner`, a user and a group; without, to whom the old one belonged, or else its folder: what root
    writes, the aggregator's user must read. A symbolic link is left alone: what it leads to is somebody's choice, and
    in a folder of a service it could lead root anywhere.

    Raises:
        OSError: It can not be written, or is a symbolic link.
    """
    if file.is_symlink():
        raise OSError(errno.ELOOP, f"it is a symbolic link, to {os.readlink(file)}, and is left as it is", str(file))
    before = os.stat(file if file.exists() else file.parent)
    user, group = owner or (before.st_uid, before.st_gid)
    with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as stream:
        try:
            os.fchmod(stream.fileno(), mode)
            if (user, group) != (os.geteuid(), os.getegid()):
                with suppress(PermissionError):  # only root may give files away
                    os.fchown(stream.fileno(), user, group)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(stream.name, file)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(stream.name)
            raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
