"""Runs a function in another network namespace (setns(2), network_namespaces(7))."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

Result = TypeVar("Result")

_CLONE_NEWNET: Final = 0x4000_0000  # include/uapi/linux/sched.h


def in_namespace(path: str, inode: int, action: Callable[[], Result]) -> Result:
    """Runs `action` in the network namespace that a path leads to, and returns what it returns.

    The path is /proc/PID/ns/net or a bind mount of one, and `inode` the inode number that it must have: the process
    may have moved to another namespace, and something else may be mounted over the mount.

    A thread of its own enters and ends in there, so that the caller's can not be left in a foreign namespace. Sockets
    and files of net/ that `action` opens stay with the namespace and keep it alive.

    Raises:
        OSError: There is no such file, it is another namespace (ESTALE), or the kernel refuses to enter: it asks for
            CAP_SYS_ADMIN here and there. Also what `action` raises.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            _enter(path, inode)
            results.append(action())
        except BaseException as failure:  # raised in the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=visit, name="setns")
    try:
        thread.start()
    except RuntimeError as error:  # the limit on threads is reached
        raise OSError(errno.EAGAIN, str(error)) from None
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(path: str, inode: int) -> None:
    # Imported late: ctypes takes memory that a host with one namespace need not give. os.setns is new in Python 3.12.
    import ctypes

    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(namespace).st_ino != inode:
            raise OSError(errno.ESTALE, "another network namespace is there", path)
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(namespace)
