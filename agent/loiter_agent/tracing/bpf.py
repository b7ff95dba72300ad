"""The system call bpf(2), for a map that a program writes and this process reads.

A module of its own because of ctypes, which costs memory: it is imported when there is a program to load.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

# enum bpf_cmd in include/uapi/linux/bpf.h
_MAP_CREATE: Final = 0
_MAP_LOOKUP_ELEM: Final = 1
_PROG_LOAD: Final = 5
_RAW_TRACEPOINT_OPEN: Final = 17

_MAP_TYPE_LRU_HASH: Final = 9
_PROG_TYPE_TRACING: Final = 26
_TRACE_RAW_TP: Final = 23

# Members of union bpf_attr, each up to the last one that is needed. The kernel takes the rest as zeros.
_MAP: Final = struct.Struct("=IIIIIII16s")  # type, key, value, entries, flags, inner map, NUMA node, name
_LOOKUP: Final = struct.Struct("=i4xQQQ")  # map, key, value, flags
_TRACEPOINT: Final = struct.Struct("=QI4x")  # name, program
# type, instructions' count and address, licence, log's level, size and address, version, flags, name, interface,
# attach type; BTF, function and line information, which are left out; attach type's number in BTF
_PROGRAM: Final = struct.Struct("=IIQQIIQII16sII36xI")

# __NR_bpf (arch/*/include/uapi/asm/unistd*.h)
_SYSTEM_CALL: Final = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64": 361,
    "ppc64le": 361,
    "s390x": 351,
}
# The numbers are those of 64-bit programs.
_NUMBER: Final = _SYSTEM_CALL.get(os.uname().machine) if sys.maxsize > 1 << 32 else None
_LOG_BYTES: Final = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)


def system_call(command: int, attributes: bytes) -> int:
    """Makes the system call. Returns a file descriptor, or 0; raises OSError with the kernel's errno."""
    result = _call(command, attributes)
    if result < 0:
        raise _error()
    return result


def _call(command: int, attributes: bytes) -> int:
    if _NUMBER is None:
        raise OSError(errno.ENOSYS, f"no number of the system call bpf(2) is known for {os.uname().machine}")
    result: int = _libc.syscall(_NUMBER, command, attributes, len(attributes))
    return result


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


class LruHash:
    """A BPF_MAP_TYPE_LRU_HASH: when it is full, what was not touched for longest makes room.

    Its memory is taken when it is made: for every entry 64 bytes beside key and value. One list for all CPUs and not
    one a CPU (BPF_F_NO_COMMON_LRU), by which a single busy CPU would have but its share of the entries. Even so, each
    CPU keeps up to 128 of them ready (LOCAL_FREE_TARGET in kernel/bpf/bpf_lru_list.c), which hold nothing meanwhile.
    """

    def __init__(self, name: str, key_bytes: int, value_bytes: int, entries: int) -> None:
        """Makes the map. Raises OSError."""
        self._key = ctypes.create_string_buffer(key_bytes)
        self._value = ctypes.create_string_buffer(value_bytes)
        attributes = _MAP.pack(_MAP_TYPE_LRU_HASH, key_bytes, value_bytes, entries, 0, 0, 0, name.encode())
        self.descriptor = system_call(_MAP_CREATE, attributes)
        self._lookup = _LOOKUP.pack(self.descriptor, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a key, or None. A look-up from here does not count as a touch."""
        self._key.raw = key
        if _call(_MAP_LOOKUP_ELEM, self._lookup) == 0:
            return self._value.raw
        if ctypes.get_errno() == errno.ENOENT:
            return None
        raise _error()

    def close(self) -> None:
        """Gives up the map, which a program that uses it keeps. Closing twice is harmless; a look-up raises OSError."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
        self._lookup = _LOOKUP.pack(-1, 0, 0, 0)


def load_tracing_program(name: str, instructions: bytes, tracepoint: int) -> int:
    """Has the kernel verify a program for a tracepoint, which is given as the number of its type in BTF.

    Returns a file descriptor. Raises OSError with the verifier's last word where it refuses.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    log = ctypes.create_string_buffer(_LOG_BYTES)
    # What the program is offered under besides the licence of this source: the kernel lends some helpers to no other.
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = _PROGRAM.pack(
        _PROG_TYPE_TRACING,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        1,
        len(log),
        ctypes.addressof(log),
        0,
        0,
        name.encode(),
        0,
        _TRACE_RAW_TP,
        tracepoint,
    )
    try:
        return system_call(_PROG_LOAD, attributes)
    except OSError as error:
        raise OSError(error.errno, verdict(log.value) or error.strerror) from None


def attach(program: int) -> int:
    """Attaches a program to the tracepoint it was loaded for. Returns a file descriptor: closing it detaches it."""
    return system_call(_RAW_TRACEPOINT_OPEN, _TRACEPOINT.pack(0, program))


def verdict(log: bytes) -> str:
    """Returns what the verifier's log says last, apart from statistics."""
    lines = [line for line in log.decode("ascii", "replace").splitlines() if line and not line.startswith("processed ")]
    return lines[-1] if lines else ""
