"""Reads TCP sockets from the kernel over NETLINK_SOCK_DIAG (sock_diag(7)). The bytes are `inet_diag`'s business."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Generator, Iterator
from typing import Final

from loiter_agent.inet_diag import (
    TCP_BOUND_INACTIVE,
    Chunk,
    SockDiagError,
    dump_request,
    find_request,
    parse_datagram,
)

NETLINK_SOCK_DIAG: Final = 4
# The kernel fills at most 32 KiB a datagram (netlink_recvmsg() in net/netlink/af_netlink.c).
_DATAGRAM_BYTES: Final = 64 * 1024
_RECEIVE_TIMEOUT_SECONDS: Final = 10


class TornDumpError(Exception):
    """All of a dump was received, but the kernel says that the table changed under it or that a part was lost."""


def open_socket() -> socket.socket:
    """Opens a netlink socket for sock_diag. Raises OSError where the kernel refuses."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    # A timeout of the kernel's, not of Python's, which would add a poll() before each receive.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _RECEIVE_TIMEOUT_SECONDS, 0))
    return opened


def new_buffer() -> bytearray:
    """Makes a buffer that holds any datagram of a dump."""
    return bytearray(_DATAGRAM_BYTES)


class SockDiag:
    """A netlink socket of the network namespace that it was opened in. Not for use by two threads at once."""

    def __init__(self, opened_by: Callable[[], socket.socket] = open_socket, buffer: bytearray | None = None) -> None:
        """Opens the socket. Raises OSError where the kernel refuses: no netlink, seccomp, RestrictAddressFamilies.

        `opened_by` opens it in another network namespace. Those that are read one after the other can share what
        `new_buffer` makes.
        """
        self._open = opened_by
        self._socket = opened_by()
        self._buffer = new_buffer() if buffer is None else buffer
        self._sequence = 0

    def dump(self, states: int, extensions: int = 0) -> Iterator[Chunk]:
        """Yields the TCP sockets in the states of a bit mask, IPv4 and IPv6, as the kernel hands them out.

        `extensions` is a bit mask as of `dump_request`. A chunk is valid until the next one is asked for.

        Raises:
            SockDiagError: The kernel refused the dump, sent no dump, or did not answer in time.
            TornDumpError: After the last chunk, where NLM_F_DUMP_INTR or ENOBUFS was met on the way.
        """
        # A new number for each dump: what may be left of one that was given up is told apart by it.
        self._sequence = self._sequence % 0x7FFF_FFFF + 1
        self._socket.send(dump_request(states, self._sequence, extensions))
        try:
            torn = yield from self._receive()
        except BaseException:
            # Also when the consumer gives up: the kernel would refuse the next dump while this one is not read out.
            if self._socket.fileno() >= 0:  # not closed meanwhile
                self._socket.close()
                with contextlib.suppress(OSError):  # what went wrong first is to be told
                    self._socket = self._open()
            raise
        if torn:
            raise TornDumpError

    def find(self, family: int, socket_id: bytes, extensions: int) -> Chunk | None:
        """Asks for one socket, by its `Chunk.socket_id`; None where it is gone. Not to be asked amid a dump.

        The chunk is valid until the next is asked for. Raises OSError where the kernel refuses or does not answer.
        """
        self._sequence = self._sequence % 0x7FFF_FFFF + 1
        self._socket.send(find_request(family, socket_id, self._sequence, extensions))
        view = memoryview(self._buffer)
        try:
            length = self._socket.recv_into(view)
            chunks = parse_datagram(view[:length], self._sequence).chunks
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return chunks[0] if chunks else None

    def _receive(self) -> Generator[Chunk, None, bool]:
        """Yields the chunks of the dump under way. Returns whether it was torn."""
        view = memoryview(self._buffer)
        torn = False
        while True:
            try:
                # With MSG_TRUNC the length is the datagram's, even where that is more than the buffer holds.
                length = self._socket.recv_into(view, 0, socket.MSG_TRUNC)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    torn = True
                    continue
                if error.errno == errno.EAGAIN:
                    raise SockDiagError(errno.ETIMEDOUT, "the kernel did not answer a sock_diag dump") from None
                raise
            if length > len(view):
                raise SockDiagError(errno.EMSGSIZE, f"a datagram of {length} bytes does not fit {len(view)}")
            datagram = parse_datagram(view[:length], self._sequence)
            torn = torn or datagram.interrupted
            yield from datagram.chunks
            if datagram.last:
                return torn

    def lists_bound_inactive(self) -> bool | None:
        """Tells whether this kernel lists bound sockets that neither listen nor are connected (Linux 6.8 does).

        None where it can not be told at the moment, for want of a port.

        An older kernel passes over the bit of a state it does not know, so asking it is no test: this binds a port of
        its own for a moment and looks for it.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", 0))
            except OSError:
                return None
            # The kernel's inode numbers of sockets are 64 bits wide in places, but 32 in inet_diag_msg.
            inode = os.fstat(probe.fileno()).st_ino & 0xFFFF_FFFF
            found = False
            with contextlib.suppress(TornDumpError):
                for chunk in self.dump(1 << TCP_BOUND_INACTIVE):
                    found = found or inode in chunk.inodes()
            return found

    def close(self) -> None:
        """Closes the socket. Closing twice is harmless."""
        self._socket.close()
