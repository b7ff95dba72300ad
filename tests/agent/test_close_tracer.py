"""The pure parts of the close tracer: the kernel's types, the instructions, the program. No kernel is asked."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest

from loiter_agent.tracing.btf import STRUCT, TYPEDEF, Btf, BtfError, Field
from loiter_agent.tracing.close_program import KEY, VALUE, Layout, close_program
from loiter_agent.tracing.instructions import (
    FRAME,
    R0,
    R1,
    R2,
    R6,
    Label,
    assemble,
    call,
    jump,
    jump_if_equal,
    leave,
    load,
    set_constant,
    set_map,
    store,
    to_big_endian_16,
)

INT, PTR, ARRAY, UNION, ENUM, CONST, FUNC_PROTO, VAR = 1, 2, 3, 5, 6, 10, 13, 14
Member = tuple[str, int, int]


class BtfBlob:
    """Builds BTF by hand, type after type; each gets the next number, from 1. Strings are stored once."""

    def __init__(self) -> None:
        self._strings = bytearray(b"\0")
        self._strings_at = {"": 0}
        self._types = bytearray()
        self._count = 0

    def _string(self, text: str) -> int:
        if text not in self._strings_at:
            self._strings_at[text] = len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._strings_at[text]

    def add(self, kind: int, name: str, size_or_type: int = 0, tail: bytes = b"", count: int = 0, flag: int = 0) -> int:
        self._types += struct.pack("=III", self._string(name), flag << 31 | kind << 24 | count, size_or_type) + tail
        self._count += 1
        return self._count

    def integer(self, name: str, size: int) -> int:
        return self.add(INT, name, size, bytes(4))

    def struct(self, name: str, size: int, members: Sequence[Member], kind: int = STRUCT, flag: int = 0) -> int:
        """Members are name, type and offset in bits; with the flag, the width of a bit field is in the top byte."""
        tail = b"".join(struct.pack("=III", self._string(member), type_, bits) for member, type_, bits in members)
        return self.add(kind, name, size, tail, len(members), flag)

    def build(self) -> bytes:
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        return header + self._types + self._strings


def _a_kernel() -> BtfBlob:
    """A kernel of few types: its struct sock has what the program reads, at places of its own."""
    blob = BtfBlob()
    u16, u32, u64 = (blob.integer(f"u{8 * size}", size) for size in (2, 4, 8))
    # Kinds that are followed by something of their own, and must be stepped over.
    blob.add(ARRAY, "", 0, struct.pack("=III", u32, u32, 4))
    blob.add(ENUM, "colour", 4, bytes(16), 2)
    blob.add(FUNC_PROTO, "", 0, bytes(16), 2)
    blob.add(VAR, "jiffies", u64, bytes(4))
    be16 = blob.add(TYPEDEF, "__be16", u16)
    const_u32 = blob.add(CONST, "", u32)
    in6 = blob.struct("in6_addr", 16, [])
    ns = blob.struct("ns_common", 16, [("stashed", u64, 0), ("inum", u32, 64)])
    net = blob.struct("net", 200, [("count", u64, 0), ("ns", ns, 128)])
    net_pointer = blob.add(PTR, "", net)
    possible_net = blob.add(TYPEDEF, "possible_net_t", blob.struct("", 8, [("net", net_pointer, 0)]))
    addresses = blob.struct("", 8, [("skc_daddr", u32, 0), ("skc_rcv_saddr", const_u32, 32)])
    pair = blob.struct("", 8, [("skc_addrpair", u64, 0), ("", addresses, 0)], UNION)
    ports = blob.struct("", 4, [("skc_dport", be16, 0), ("skc_num", u16, 16)])
    common = blob.struct(
        "sock_common",
        64,
        [
            ("", pair, 0),
            ("", ports, 96),
            ("skc_family", u16, 128),
            ("skc_reuse", u16, 144 | 4 << 24),
            ("skc_net", possible_net, 192),
            ("skc_v6_daddr", in6, 256),
            ("skc_v6_rcv_saddr", in6, 384),
        ],
        flag=1,
    )
    lock = blob.add(TYPEDEF, "socket_lock_t", blob.struct("", 8, [("slock", u32, 0), ("owned", u32, 32)]))
    blob.struct("sock", 100, [("__sk_common", common, 64), ("sk_lock", lock, 576), ("sk_protocol", u16, 640)])
    blob.struct(
        "task_struct",
        100,
        [("flags", u32, 32), ("tgid", u32, 64), ("group_leader", net_pointer, 128), ("start_boottime", u64, 192)],
    )
    blob.add(TYPEDEF, "btf_trace_inet_sock_set_state", net_pointer)
    return blob


def test_members_are_found_through_unnamed_structs_unions_and_typedefs() -> None:
    btf = Btf(_a_kernel().build())
    assert btf.field("sock", "sk_protocol") == Field(80, 2)
    assert btf.field("sock", "__sk_common", "skc_rcv_saddr") == Field(12, 4)
    assert btf.field("sock", "__sk_common", "skc_num") == Field(22, 2)
    assert btf.field("sock", "__sk_common", "skc_net", "net") == Field(32, struct.calcsize("P"))
    assert btf.field("sock", "sk_lock", "owned") == Field(76, 4)
    assert btf.field("net", "ns", "inum") == Field(24, 4)


def test_a_type_is_found_by_its_kind_and_name() -> None:
    """A struct and a typedef may have one name."""
    blob = BtfBlob()
    number = blob.integer("int", 4)
    typedef = blob.add(TYPEDEF, "thing", number)
    named = blob.struct("thing", 8, [])
    btf = Btf(blob.build())
    assert (btf.find(TYPEDEF, "thing"), btf.find(STRUCT, "thing")) == (typedef, named)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (("sock", "sk_missing"), "struct sock has no sk_missing"),
        (("sock", "sk_protocol", "deeper"), "has no sk_protocol.deeper"),
        (("sock_common", "skc_reuse"), "has skc_reuse as a bit field"),
        (("socket",), "no type socket"),
    ],
)
def test_what_a_kernel_lacks_is_said(path: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BtfError, match=reason) as raised:
        Btf(_a_kernel().build()).field(*path)
    assert raised.value.errno == errno.ENOENT


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(60), _a_kernel().build()[:200]])
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(BtfError) as raised:
        Btf(data)
    assert raised.value.errno == errno.EBADMSG


def test_a_kind_of_type_that_is_not_known_is_refused() -> None:
    blob = BtfBlob()
    blob.add(25, "from the future")
    with pytest.raises(BtfError, match="not known"):
        Btf(blob.build())


def test_the_layout_is_that_of_the_kernel() -> None:
    layout = Layout.of(Btf(_a_kernel().build()))
    assert (layout.sock_family, layout.sock_dport, layout.sock_sport) == (24, 20, 22)
    assert (layout.sock_dst, layout.sock_src, layout.sock_dst6, layout.sock_src6) == (8, 12, 40, 56)
    assert (layout.task_flags, layout.task_tgid, layout.task_leader, layout.task_start) == (4, 8, 16, 24)


def test_a_member_of_another_size_is_refused() -> None:
    """Before Linux 5.6, sk_protocol was a byte."""
    blob = BtfBlob()
    byte = blob.integer("u8", 1)
    blob.add(TYPEDEF, "btf_trace_inet_sock_set_state", byte)
    blob.struct("sock", 1, [("sk_protocol", byte, 0)])
    with pytest.raises(BtfError, match=r"sock\.sk_protocol takes 1 bytes, not 2"):
        Layout.of(Btf(blob.build()))


def _instruction(opcode: int, destination: int, source: int, offset: int, immediate: int) -> bytes:
    registers = destination | source << 4 if sys.byteorder == "little" else destination << 4 | source
    return struct.pack("=BBhi", opcode, registers, offset, immediate)


def test_instructions_are_those_of_the_instruction_set() -> None:
    """Opcodes as in RFC 9669."""
    assert assemble([load(2, R2, R6, 532)]) == _instruction(0x69, 2, 6, 532, 0)
    assert assemble([load(8, R2, R1, 16)]) == _instruction(0x79, 2, 1, 16, 0)
    assert assemble([store(4, FRAME, -4, R2)]) == _instruction(0x63, 10, 2, -4, 0)
    assert assemble([to_big_endian_16(R2)]) == _instruction(0xDC, 2, 0, 0, 16)
    assert assemble([call(2)]) == _instruction(0x85, 0, 0, 0, 2)
    assert assemble([*set_map(R1, 7)]) == _instruction(0x18, 1, 1, 0, 7) + bytes(8)
    assert assemble([leave()]) == _instruction(0x95, 0, 0, 0, 0)


def test_a_jump_counts_from_the_instruction_behind_it() -> None:
    """A label takes no place, a map two."""
    program = assemble(
        [
            jump_if_equal(R2, 1, "out"),
            *set_map(R1, 7),
            Label("out"),
            set_constant(R0, 0),
            jump("out"),
        ]
    )
    assert program[:8] == _instruction(0x15, 2, 0, 2, 1)
    assert program[-8:] == _instruction(0x05, 0, 0, -2, 0)


def test_a_jump_to_nowhere_is_refused() -> None:
    with pytest.raises(KeyError):
        assemble([jump("nowhere")])


def test_the_program_reads_where_the_layout_says() -> None:
    """Each offset of the layout changes the program, and each in another way."""
    layout = Layout.of(Btf(_a_kernel().build()))
    program = close_program(layout, 3)
    assert len(program) % 8 == 0
    others = {
        close_program(replace(layout, **{field.name: 1_000}), 3)
        for field in fields(layout)
        if field.name != "tracepoint"  # where it is attached, not what it does
    }
    assert len(others | {program}) == len(fields(layout))


def test_key_and_value_are_whole_words() -> None:
    """The stack is cleared by nobody: a byte of padding that is not written would be refused by the verifier."""
    assert (KEY.size, VALUE.size) == (40, 16)
