"""The BPF program that records who closes a TCP connection. Pure: no I/O.

It is attached to the kernel's tracepoint inet_sock_set_state (include/trace/events/sock.h), which is passed whenever a
socket changes its state: `(const struct sock *sk, const int oldstate, const int newstate)`.

TIME_WAIT belongs to the side that closes first, and the way there is always through FIN_WAIT1, which is entered by
close(), by shutdown() and by the end of a process. The program looks at no other transition.

The kernel lends some of the helpers to programs under the GPL alone, so this file may be used under either licence.

SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

from loiter_agent.tracing.btf import TYPEDEF, Btf, BtfError, Field
from loiter_agent.tracing.instructions import (
    FRAME,
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    Instruction,
    Label,
    add_constant,
    assemble,
    call,
    jump,
    jump_if_any_bit,
    jump_if_equal,
    jump_if_not_equal,
    leave,
    load,
    move,
    set_constant,
    set_map,
    store,
    store_constant,
    to_big_endian_16,
)

# The tracepoint's type in BTF; its number is what a program is attached to.
TRACEPOINT: Final = "btf_trace_inet_sock_set_state"

# sport, dport, src, dst as in struct inet_diag_sockid, and the inode number of the network namespace
CONNECTION_BYTES: Final = 36
KEY: Final = struct.Struct(f"={CONNECTION_BYTES}sI")
# thread group id in the initial pid namespace, padding, start of the process in nanoseconds since boot
VALUE: Final = struct.Struct("=IIQ")

_SPORT, _DPORT, _SRC, _DST, _NAMESPACE = (at - KEY.size for at in (0, 2, 4, 20, 36))
_KEY: Final = -KEY.size
_VALUE: Final = _KEY - VALUE.size

_NEW_STATE_ARGUMENT: Final = 16  # the third argument of eight bytes
_TCP_FIN_WAIT1: Final = 4  # include/net/tcp_states.h
_IPPROTO_TCP: Final = 6
_AF_INET, _AF_INET6 = 2, 10
_PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h

# enum bpf_func_id in include/uapi/linux/bpf.h
_MAP_UPDATE_ELEM: Final = 2
_MAP_DELETE_ELEM: Final = 3
_GET_CURRENT_TASK_BTF: Final = 158  # since Linux 5.11


@dataclass(frozen=True, slots=True)
class Layout:
    """Where this kernel keeps what the program reads. Offsets in bytes from the struct that begins each name."""

    tracepoint: int
    sock_protocol: int
    sock_family: int
    sock_sport: int
    sock_dport: int
    sock_src: int
    sock_dst: int
    sock_src6: int
    sock_dst6: int
    sock_lock_owned: int
    sock_net: int
    net_inum: int
    task_flags: int
    task_tgid: int
    task_leader: int
    task_start: int

    @classmethod
    def of(cls, btf: Btf) -> Layout:
        """Takes the layout from the kernel's BTF. Raises BtfError where this kernel has not what is needed."""

        def offset(size: int, struct_name: str, *path: str) -> int:
            field = btf.field(struct_name, *path)
            return _checked(field, size, f"{struct_name}.{'.'.join(path)}")

        return cls(
            tracepoint=btf.find(TYPEDEF, TRACEPOINT),
            sock_protocol=offset(2, "sock", "sk_protocol"),
            sock_family=offset(2, "sock", "__sk_common", "skc_family"),
            sock_sport=offset(2, "sock", "__sk_common", "skc_num"),
            sock_dport=offset(2, "sock", "__sk_common", "skc_dport"),
            sock_src=offset(4, "sock", "__sk_common", "skc_rcv_saddr"),
            sock_dst=offset(4, "sock", "__sk_common", "skc_daddr"),
            sock_src6=offset(16, "sock", "__sk_common", "skc_v6_rcv_saddr"),
            sock_dst6=offset(16, "sock", "__sk_common", "skc_v6_daddr"),
            sock_lock_owned=offset(4, "sock", "sk_lock", "owned"),
            sock_net=offset(8, "sock", "__sk_common", "skc_net", "net"),
            net_inum=offset(4, "net", "ns", "inum"),
            task_flags=offset(4, "task_struct", "flags"),
            task_tgid=offset(4, "task_struct", "tgid"),
            task_leader=offset(8, "task_struct", "group_leader"),
            task_start=offset(8, "task_struct", "start_boottime"),
        )


def _checked(field: Field, size: int, name: str) -> int:
    if field.size != size:
        raise BtfError(errno.ENOENT, f"this kernel's {name} takes {field.size} bytes, not {size}")
    return field.offset


def close_program(layout: Layout, map_descriptor: int) -> bytes:
    """Assembles the program that keeps KEY → VALUE in a map.

    A connection that somebody unknown closes is taken out of the map: what an earlier one with the same addresses left
    there would be wrong. Unknown are

    - what the kernel closes for itself (NFS, MPTCP's subflows, a socket that was lost in flight over AF_UNIX);
    - what the arrival of a segment closes, on behalf of whichever process it interrupts: a shutdown() that was put off
      (tcp_rcv_state_process() in net/ipv4/tcp_input.c). The socket is not locked by a process then, as it is in
      close() and shutdown().
    """
    return assemble(
        [
            load(8, R2, R1, _NEW_STATE_ARGUMENT),
            jump_if_not_equal(R2, _TCP_FIN_WAIT1, "out"),
            load(8, R6, R1, 0),
            # SCTP and MPTCP pass here too.
            load(2, R2, R6, layout.sock_protocol),
            jump_if_not_equal(R2, _IPPROTO_TCP, "out"),
            *_key(layout),
            load(4, R2, R6, layout.sock_lock_owned),
            jump_if_equal(R2, 0, "unknown"),
            call(_GET_CURRENT_TASK_BTF),
            load(4, R2, R0, layout.task_flags),
            jump_if_any_bit(R2, _PF_KTHREAD, "unknown"),
            # As /proc has it, a process is its first thread: it keeps its start when another thread calls execve().
            load(8, R7, R0, layout.task_leader),
            load(4, R2, R7, layout.task_tgid),
            store(8, FRAME, _VALUE, R2),
            load(8, R2, R7, layout.task_start),
            store(8, FRAME, _VALUE + 8, R2),
            *set_map(R1, map_descriptor),
            move(R2, FRAME),
            add_constant(R2, _KEY),
            move(R3, FRAME),
            add_constant(R3, _VALUE),
            set_constant(R4, 0),  # BPF_ANY: the latest of a connection is kept
            call(_MAP_UPDATE_ELEM),
            jump("out"),
            Label("unknown"),
            *set_map(R1, map_descriptor),
            move(R2, FRAME),
            add_constant(R2, _KEY),
            call(_MAP_DELETE_ELEM),
            Label("out"),
            set_constant(R0, 0),
            leave(),
        ]
    )


def _key(layout: Layout) -> list[Instruction | Label]:
    """Writes the key of the socket in R6 to the stack, as inet_diag_msg_common_fill() in net/ipv4/inet_diag.c does."""
    return [
        load(2, R2, R6, layout.sock_sport),
        to_big_endian_16(R2),
        store(2, FRAME, _SPORT, R2),
        load(2, R2, R6, layout.sock_dport),
        store(2, FRAME, _DPORT, R2),
        load(8, R2, R6, layout.sock_net),
        load(4, R2, R2, layout.net_inum),
        store(4, FRAME, _NAMESPACE, R2),
        load(2, R2, R6, layout.sock_family),
        jump_if_equal(R2, _AF_INET6, "ipv6"),
        jump_if_not_equal(R2, _AF_INET, "out"),
        *_copied(layout.sock_src, _SRC, 4),
        *_copied(layout.sock_dst, _DST, 4),
        *(store_constant(4, FRAME, at + word, 0) for at in (_SRC, _DST) for word in (4, 8, 12)),
        jump("filled"),
        Label("ipv6"),
        *_copied(layout.sock_src6, _SRC, 16),
        *_copied(layout.sock_dst6, _DST, 16),
        Label("filled"),
    ]


def _copied(offset: int, to: int, length: int) -> list[Instruction]:
    """Copies from the socket in R6 to the stack, a word at a time: addresses in the key are not aligned for more."""
    return [
        line
        for word in range(0, length, 4)
        for line in (load(4, R2, R6, offset + word), store(4, FRAME, to + word, R2))
    ]
