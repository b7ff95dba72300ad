"""Finds types in BTF, the kernel's description of its own types, without keeping them. Pure: no I/O.

The format is that of Documentation/bpf/btf.rst and include/uapi/linux/btf.h of the kernel
(https://docs.kernel.org/bpf/btf.html).
"""

from __future__ import annotations

import errno
import struct
from array import array
from dataclasses import dataclass
from mmap import mmap
from typing import Final

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")  # magic, version, flags, header's length, types at and long, strings too
_TYPE: Final = struct.Struct("=III")  # name, info, size or type
_MEMBER: Final = struct.Struct("=III")  # name, type, offset in bits

# BTF_KIND_*
_PTR: Final = 2
STRUCT: Final = 4
_UNION: Final = 5
TYPEDEF: Final = 8
_MODIFIERS: Final = (TYPEDEF, 9, 10, 11, 18)  # volatile, const, restrict, type tag

# What follows struct btf_type, by kind: so many bytes, and so many more for each of its `vlen`.
_FIXED_BYTES: Final = (0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0)
_BYTES_EACH: Final = (0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12)


class BtfError(OSError):
    """The kernel's types are not those that are expected (ENOENT), or what was read is no BTF (EBADMSG)."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where a member of a struct is found, from the start of the struct, and how long it is. In bytes."""

    offset: int
    size: int


class Btf:
    """An index of the types in BTF: where each begins, and its name. 8 bytes a type, of which a kernel has 100,000."""

    def __init__(self, data: bytes | mmap) -> None:
        """Walks over the types once. Raises BtfError where `data` is no BTF, or has kinds that are not known."""
        self._data = data
        self._starts = array("I", [0])  # the type number 0 is void, which is not stored
        self._names = array("I", [0])
        try:
            self._index()
        except (struct.error, IndexError):
            raise BtfError(
                errno.EBADMSG, "the BTF ends in the middle, or has types of a kind that is not known"
            ) from None

    def _index(self) -> None:
        magic, _, _, header, types_at, types_long, strings_at, strings_long = _HEADER.unpack_from(self._data)
        if magic != _MAGIC:
            raise BtfError(errno.EBADMSG, f"no BTF: it begins with {magic:#x}")
        self._strings = header + strings_at
        self._strings_end = self._strings + strings_long
        at = header + types_at
        end = at + types_long
        unpack, starts, names = _TYPE.unpack_from, self._starts.append, self._names.append
        while at < end:
            name, info, _ = unpack(self._data, at)
            starts(at)
            names(name)
            kind = info >> 24 & 0x1F
            at += _TYPE.size + _FIXED_BYTES[kind] + _BYTES_EACH[kind] * (info & 0xFFFF)

    def find(self, kind: int, name: str) -> int:
        """Returns the number of the first type of this kind and name. Raises BtfError where there is none."""
        string = self._string(name)
        number = 0
        while string is not None:
            try:
                number = self._names.index(string, number + 1)
            except ValueError:
                break
            if self._type(number)[0] == kind:
                return number
        raise BtfError(errno.ENOENT, f"this kernel has no type {name}")

    def field(self, struct_name: str, *path: str) -> Field:
        """Finds a member of a struct, or a member of its member, and so on; unnamed structs and unions are looked into.

        Raises BtfError where a member is missing, or is a bit field.
        """
        number = self.find(STRUCT, struct_name)
        at = 0
        for name in path:
            found = self._member(number, self._string(name))
            if found is None:
                raise BtfError(errno.ENOENT, f"this kernel's struct {struct_name} has no {'.'.join(path)}")
            bits, number = found
            if bits % 8:
                raise BtfError(errno.ENOENT, f"this kernel's struct {struct_name} has {'.'.join(path)} as a bit field")
            at += bits // 8
        return Field(at, self._size(number))

    def _member(self, number: int, string: int | None) -> tuple[int, int] | None:
        """Returns offset in bits and type of a member, by its name's offset; None where it is missing.

        A bit field is returned with an offset that is no multiple of eight, whatever its own is.
        """
        number = self._bare(number)
        kind, count, has_bit_fields, _ = self._type(number)
        if kind not in (STRUCT, _UNION) or string is None:
            return None
        first = self._starts[number] + _TYPE.size
        for at in range(first, first + count * _MEMBER.size, _MEMBER.size):
            name, member, bits = _MEMBER.unpack_from(self._data, at)
            if has_bit_fields:
                bits = 1 if bits >> 24 else bits & 0xFF_FFFF
            if name == string:
                return bits, member
            if name == 0 and (inner := self._member(member, string)) is not None:
                return bits + inner[0], inner[1]
        return None

    def _type(self, number: int) -> tuple[int, int, bool, int]:
        """Returns kind, number of members, whether offsets carry the width of bit fields, and size or type."""
        _, info, size = _TYPE.unpack_from(self._data, self._starts[number])
        return info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31), size

    def _bare(self, number: int) -> int:
        """Follows typedefs and qualifiers to the type itself."""
        while (of := self._type(number))[0] in _MODIFIERS:
            number = of[3]
        return number

    def _size(self, number: int) -> int:
        """The bytes that an integer, enum, struct, union or pointer takes."""
        kind, _, _, size = self._type(self._bare(number))
        return struct.calcsize("P") if kind == _PTR else size

    def _string(self, name: str) -> int | None:
        """Returns the offset of a name in the strings, by which types and members refer to it. None if it has none."""
        at = self._data.find(b"\0" + name.encode() + b"\0", self._strings, self._strings_end)
        return at + 1 - self._strings if at >= 0 else None
