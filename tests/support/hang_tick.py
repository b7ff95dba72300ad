"""Hangs a tick of a running agent: the thread that samples is stopped in the middle of reading a folder of /proc.

    python3 hang_tick.py PID

It prints `hung TID` once the thread is stopped, and holds it until its standard input ends, the agent has ended, or it
is killed. The agent is not changed for it: this traces the thread as a debugger would (ptrace(2)) and does not let it
go on. All other threads run, its event loop among them. Only the thread that samples reads folders: it is found by that
(getdents64(2)), and holds no lock of the interpreter meanwhile. Needs the right to trace the process, and no package.
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import sys
import time
from pathlib import Path

# linux/ptrace.h
_CONT, _DETACH, _SYSCALL, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 7, 17, 24, 0x4206, 0x4207, 0x420E
_TRACE_SYSTEM_CALLS_AS_SUCH = 0x1
_SYSTEM_CALL_STOP = 5 | 0x80  # SIGTRAP
_ENTRY = 1
_WALL = 0x40000000
_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[platform.machine()]
_SECONDS = 60.0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class _SyscallInfo(ctypes.Structure):
    """The head of struct ptrace_syscall_info, up to the number of a call that is entered."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
    )


def _ptrace(request: int, tid: int, address: int = 0, data: int | ctypes.Array[ctypes.c_char] | None = 0) -> None:
    if _libc.ptrace(request, tid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace of thread {tid}: {os.strerror(number)}")


def _reads_a_folder(tid: int) -> bool:
    """Whether a thread that stopped at a system call is about to read a folder."""
    info = _SyscallInfo()
    if _libc.ptrace(_GET_SYSCALL_INFO, tid, ctypes.sizeof(info), ctypes.byref(info)) < 0:
        return False
    return bool(info.op == _ENTRY and info.number == _GETDENTS64)


def hang(pid: int) -> int:
    """Stops the thread of a process that reads the next folder, and returns it. Lets go of all others."""
    threads = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - {pid}
    for tid in threads:
        _ptrace(_SEIZE, tid, 0, _TRACE_SYSTEM_CALLS_AS_SUCH)
        _ptrace(_INTERRUPT, tid)
    deadline = time.monotonic() + _SECONDS
    while threads and time.monotonic() < deadline:
        tid, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            threads.discard(tid)
            continue
        stop = os.WSTOPSIG(status)
        if stop == _SYSTEM_CALL_STOP and _reads_a_folder(tid):
            _let_go(threads - {tid})
            return tid
        # What is no stop of ours is a signal, which is passed on.
        passed_on = 0 if stop == _SYSTEM_CALL_STOP or status >> 16 else stop
        _ptrace(_SYSCALL, tid, 0, passed_on)
    raise TimeoutError(f"no thread of process {pid} has read a folder within {_SECONDS:g} s: is it an agent that runs?")


def _let_go(threads: set[int]) -> None:
    for tid in threads:
        _ptrace(_INTERRUPT, tid)
    while threads:
        tid, status = os.waitpid(-1, _WALL)
        if tid in threads:
            threads.discard(tid)
            if os.WIFSTOPPED(status):
                _ptrace(_DETACH, tid)


def hold(tid: int) -> None:
    """Keeps a thread stopped. Where its process is killed, it is reaped here: it would keep the others from ending."""
    while not select.select((sys.stdin,), (), (), 0.02)[0]:
        ended, status = os.waitpid(tid, _WALL | os.WNOHANG)
        if ended and not os.WIFSTOPPED(status):
            return


def main() -> None:
    tid = hang(int(sys.argv[1]))
    print(f"hung {tid}", flush=True)
    hold(tid)


if __name__ == "__main__":
    main()
