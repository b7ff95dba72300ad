"""Assembles BPF instructions. Pure: no I/O.

The instruction set is that of RFC 9669 and the kernel's include/uapi/linux/bpf.h
(https://docs.kernel.org/bpf/standardization/instruction-set.html). Values are in the machine's byte order.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)
FRAME: Final = R10  # the end of the stack of 512 bytes; it is read-only

_SIZES: Final = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}  # BPF_B, BPF_H, BPF_W, BPF_DW
_INSTRUCTION: Final = struct.Struct("=BBhi")  # opcode, registers, offset, immediate
_PSEUDO_MAP_FD: Final = 1


@dataclass(frozen=True, slots=True)
class Instruction:
    """One struct bpf_insn. A jump has the name of a label in place of its offset."""

    opcode: int
    destination: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """The place of the instruction that follows."""

    name: str


def load(size: int, register: int, base: int, offset: int) -> Instruction:
    """register = *(unsigned of `size` bytes *)(base + offset)."""
    return Instruction(0x61 | _SIZES[size], register, base, offset)


def store(size: int, base: int, offset: int, register: int) -> Instruction:
    """*(unsigned of `size` bytes *)(base + offset) = register."""
    return Instruction(0x63 | _SIZES[size], base, register, offset)


def store_constant(size: int, base: int, offset: int, value: int) -> Instruction:
    """*(unsigned of `size` bytes *)(base + offset) = value."""
    return Instruction(0x62 | _SIZES[size], base, 0, offset, value)


def move(register: int, source: int) -> Instruction:
    """register = source."""
    return Instruction(0xBF, register, source)


def set_constant(register: int, value: int) -> Instruction:
    """register = value, which is of 32 bits and signed."""
    return Instruction(0xB7, register, 0, 0, value)


def add_constant(register: int, value: int) -> Instruction:
    """register += value, which is of 32 bits and signed."""
    return Instruction(0x07, register, 0, 0, value)


def to_big_endian_16(register: int) -> Instruction:
    """register = htons(register)."""
    return Instruction(0xDC, register, 0, 0, 16)


def jump(label: str) -> Instruction:
    """Goes on at the label."""
    return Instruction(0x05, target=label)


def jump_if_equal(register: int, value: int, label: str) -> Instruction:
    """Goes on at the label if register == value."""
    return Instruction(0x15, register, 0, 0, value, label)


def jump_if_not_equal(register: int, value: int, label: str) -> Instruction:
    """Goes on at the label if register != value."""
    return Instruction(0x55, register, 0, 0, value, label)


def jump_if_any_bit(register: int, bits: int, label: str) -> Instruction:
    """Goes on at the label if register & bits."""
    return Instruction(0x45, register, 0, 0, bits, label)


def set_map(register: int, descriptor: int) -> tuple[Instruction, Instruction]:
    """register = the map behind a file descriptor. Takes the place of two instructions."""
    return Instruction(0x18, register, _PSEUDO_MAP_FD, 0, descriptor), Instruction(0)


def call(helper: int) -> Instruction:
    """R0 = helper(R1, …, R5); R1 to R5 hold nothing of use afterwards."""
    return Instruction(0x85, immediate=helper)


def leave() -> Instruction:
    """Returns R0 to the kernel."""
    return Instruction(0x95)


def assemble(lines: Sequence[Instruction | Label]) -> bytes:
    """Makes the bytes of a program. Raises KeyError where a label is missing."""
    labels: dict[str, int] = {}
    instructions: list[Instruction] = []
    for line in lines:
        if isinstance(line, Label):
            labels[line.name] = len(instructions)
        else:
            instructions.append(line)
    return b"".join(_encode(line, index, labels) for index, line in enumerate(instructions))


def _encode(line: Instruction, index: int, labels: dict[str, int]) -> bytes:
    # A jump counts from the instruction behind it.
    offset = line.offset if line.target is None else labels[line.target] - index - 1
    first, second = line.destination, line.source
    registers = first | second << 4 if sys.byteorder == "little" else first << 4 | second
    return _INSTRUCTION.pack(line.opcode, registers, offset, line.immediate)
