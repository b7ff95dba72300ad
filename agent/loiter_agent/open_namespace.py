"""One network namespace and the two ways to read its sockets: from inside by sock_diag, from outside by procfs."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol, TypeVar

from loiter_agent.inet_diag import TCP_LISTEN, Chunk
from loiter_agent.namespace_files import (
    NamespaceSettings,
    SockStat,
    parse_sock_stat,
    parse_time_wait_overflows,
    read_file,
    read_settings,
    reread,
)
from loiter_agent.proc_net_tcp import encode
from loiter_agent.procfs import ProcessVanished, Procfs
from loiter_agent.sample import ProcessKey
from loiter_agent.setns import in_namespace
from loiter_agent.sock_diag import SockDiag, TornDumpError, open_socket

Result = TypeVar("Result")
How = Literal["sock_diag", "procfs"]

# How many descriptors a namespace takes that is read from inside: sock_diag and two of net/.
DESCRIPTORS: Final = 3
# How many of the ways into a namespace are tried: all lead to the same place.
_WAYS: Final = 3


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a namespace is to be found: its processes, the oldest first, and the paths of its bind mounts."""

    members: Sequence[ProcessKey] = ()
    mounts: Sequence[str] = ()


class _Reader(Protocol):
    """Reads the sockets of one namespace. All raise OSError."""

    how: How

    def dump(self, states: int, extensions: int) -> Iterator[Chunk]: ...

    def sock_stat(self) -> SockStat: ...

    def listeners(self) -> list[Chunk] | None:
        """The listening sockets alone; None where finding them takes as long as finding all."""

    def close(self) -> None: ...


class OpenNamespace:
    """A network namespace. `Namespaces` makes it, keeps it current and closes it.

    `id` is its inode number, `name` the one of its bind mount, "host" for the host's own, or "". `member` is its oldest
    process. `settings` is None where nobody may look.
    """

    def __init__(self, procfs: Procfs, inode: int, own: bool, buffer: bytearray) -> None:
        """Takes the inode number, and a buffer for dumps. It can not be read before `enter` or `stay_outside`."""
        self.id = inode
        self.own = own
        self.name = ""
        self.settings: NamespaceSettings | None = None
        self._procfs = procfs
        self._root = str(procfs.root)
        self._buffer = buffer
        self._whereabouts = Whereabouts()
        self._reader: _Reader | None = None
        self._broken = False

    @property
    def member(self) -> ProcessKey | None:
        """Its oldest process; None where nothing but a bind mount keeps it."""
        return self._whereabouts.members[0] if self._whereabouts.members else None

    @property
    def how(self) -> How | None:
        """How it is read; None: not at all."""
        return self._reader.how if self._reader else None

    @property
    def entered(self) -> bool:
        """Whether it is read from inside, which keeps it alive."""
        return self.how == "sock_diag"

    def dump(self, states: int, extensions: int = 0) -> Generator[Chunk, None, None]:
        """Yields the sockets in the states of a bit mask, as `SockDiag.dump` does. Read by procfs, none has extensions.

        A chunk is valid until the next one of any namespace is asked for.

        Raises:
            OSError: The kernel refused, or the last process of a namespace that is read by procfs has ended.
            TornDumpError: After the last chunk, where a part was lost.
        """
        if self._reader is None:
            raise OSError(errno.EACCES, f"network namespace {self.id} can not be read")
        try:
            yield from self._reader.dump(states, extensions)
        except OSError:
            self._broken = True
            raise

    def find(self, chunk: Chunk, extensions: int) -> Chunk | None:
        """Asks for the socket that a chunk consists of, with extensions, as `SockDiag.find` does.

        None where it is gone, and where the namespace is not read from inside. Raises OSError.
        """
        reader = self._reader
        if not isinstance(reader, _SockDiagReader):
            return None
        return reader.diag.find(chunk.family(0), chunk.socket_id(0), extensions)

    def idle_sockets(self) -> list[Chunk] | None:
        """All sockets of a namespace where nobody talks: its listeners, or none. None where it takes a dump to tell.

        That costs two short files and a walk of the table of listeners, a tenth of the walk of all connections, and
        less than that where other namespaces have many: the table is shared. What such a namespace may have besides are
        sockets that are just bound, and handshakes under way; neither is counted by the kernel (see SockStat).

        Always None for the agent's own namespace: that is dumped in full. The chunks remain valid.
        """
        stat = None if self.own or self._reader is None else self.sock_stat()
        if stat is None or stat.tw > 0:
            return None
        if stat.inuse == 0:
            return []
        try:
            listeners = self._reader.listeners() if self._reader else None
        except TornDumpError:
            return None
        except OSError:
            self._broken = True
            return None
        return listeners if listeners and sum(chunk.count for chunk in listeners) == stat.inuse else None

    def sock_stat(self) -> SockStat | None:
        """Reads how many sockets it has, in constant time; None where that can not be read."""
        try:
            return self._reader.sock_stat() if self._reader else None
        except (OSError, ValueError):
            return None

    @property
    def time_wait_overflows(self) -> int | None:
        """Reads how many sockets it did not keep in TIME_WAIT for want of room; None where that can not be read."""
        try:
            if self.own:
                return parse_time_wait_overflows(read_file(f"{self._root}/net/netstat"))
            return parse_time_wait_overflows(self._from_outside().read("netstat")[0] or b"")
        except (OSError, ValueError):
            return None

    def is_kept(self) -> bool:
        """Whether one of its processes is still in it, or one of its bind mounts still there."""
        members = (f"{self._root}/{member.pid}/ns/net" for member in self._whereabouts.members)
        return any(_is_namespace(path, self.id) for path in (*members, *self._whereabouts.mounts))

    def locate(self, name: str, whereabouts: Whereabouts) -> None:
        """Takes note of where the namespace is to be found now. What is read from outside is, from then on, there."""
        self.name = name
        self._whereabouts = whereabouts
        if self._broken:
            self.close()
        if not self.entered:
            self._reader = None

    def enter(self) -> None:
        """Has the namespace read from inside. Raises OSError where it can not be entered, or sock_diag is refused."""
        net = f"{self._root}/net" if self.own else f"{self._root}/thread-self/net"
        handles = self.visit(partial(_open_files, net))
        try:
            diag = SockDiag(lambda: self.visit(open_socket), self._buffer)
        except BaseException:
            _close(handles)
            raise
        self.close()
        self._reader = _SockDiagReader(diag, handles)
        self.read_settings()

    def stay_outside(self) -> None:
        """Has the namespace read by way of its processes, if there are any."""
        if self._whereabouts.members:
            self._reader = self._from_outside()

    def read_settings(self) -> None:
        """Reads its settings anew; those last read remain where they can not be read now."""
        try:
            self.settings = self.visit(partial(read_settings, self._root))
        except OSError:
            return

    def visit(self, action: Callable[[], Result]) -> Result:
        """Runs a function inside. Raises OSError where there is no way in."""
        if self.own:
            return action()
        members = [f"{self._root}/{member.pid}/ns/net" for member in self._whereabouts.members[:_WAYS]]
        failure: OSError = ProcessVanished(f"nothing is left of network namespace {self.id}")
        for path in [*members, *self._whereabouts.mounts[:_WAYS]]:
            try:
                return in_namespace(path, self.id, action)
            except OSError as error:
                failure = error
        raise failure

    def lists_bound_inactive(self) -> bool | None:
        """As `SockDiag.lists_bound_inactive`, of the agent's own namespace; None for any other."""
        reader = self._reader
        return reader.diag.lists_bound_inactive() if self.own and isinstance(reader, _SockDiagReader) else None

    def close(self) -> None:
        """Lets go of the namespace. Closing twice is harmless."""
        if self._reader:
            self._reader.close()
        self._reader, self.settings, self._broken = None, None, False

    def _from_outside(self) -> _ProcNetReader:
        return _ProcNetReader(self._procfs, self.id, [member.pid for member in self._whereabouts.members])


class _SockDiagReader:
    """Reads by sockets and files that were opened inside, and so stay with the namespace and keep it alive."""

    how: How = "sock_diag"

    def __init__(self, diag: SockDiag, handles: list[int]) -> None:
        self.diag = diag
        self._handles = handles

    def dump(self, states: int, extensions: int) -> Iterator[Chunk]:
        return self.diag.dump(states, extensions)

    def sock_stat(self) -> SockStat:
        texts = [reread(handle) for handle in self._handles]
        return parse_sock_stat(texts[0] if texts else b"", texts[1] if len(texts) > 1 else None)

    def listeners(self) -> list[Chunk]:
        return [
            Chunk(memoryview(bytes(chunk.view)), chunk.stride, chunk.count) for chunk in self.diag.dump(1 << TCP_LISTEN)
        ]

    def close(self) -> None:
        self.diag.close()
        _close(self._handles)


def _is_namespace(path: str, inode: int) -> bool:
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False


def _open_files(net: str) -> list[int]:
    """Opens net/sockstat, and net/sockstat6 where there is one: a kernel without IPv6 has none."""
    handles: list[int] = []
    try:
        for name in ("sockstat", "sockstat6"):
            with contextlib.suppress(FileNotFoundError):
                handles.append(os.open(f"{net}/{name}", os.O_RDONLY | os.O_CLOEXEC))
    except BaseException:
        _close(handles)
        raise
    return handles


def _close(handles: list[int]) -> None:
    while handles:
        os.close(handles.pop())


class _ProcNetReader:
    """Reads /proc/PID/net of whichever process of the namespace is still there. Takes no right to enter."""

    how: How = "procfs"

    def __init__(self, procfs: Procfs, inode: int, pids: Sequence[int]) -> None:
        self._procfs = procfs
        self._inode = inode
        self._pids = pids

    def dump(self, states: int, extensions: int) -> Iterator[Chunk]:  # noqa: ARG002 - the text has no extensions
        for family, text in zip((socket.AF_INET, socket.AF_INET6), self.read("tcp", "tcp6"), strict=True):
            if text is None:  # a kernel without IPv6
                continue
            try:
                chunks = encode(text, family, states)
            except ValueError as error:
                raise OSError(errno.EBADMSG, f"/proc/PID/net/tcp of network namespace {self._inode}: {error}") from None
            yield from chunks

    def sock_stat(self) -> SockStat:
        sockstat, sockstat6 = self.read("sockstat", "sockstat6")
        return parse_sock_stat(sockstat or b"", sockstat6)

    def listeners(self) -> None:
        return None

    def close(self) -> None:
        pass

    def read(self, *names: str) -> list[bytes | None]:
        """Reads files of net/, all through one process. None for one that this kernel does not have.

        Raises ProcessVanished where no process is left in the namespace.
        """
        for pid in self._pids:
            try:
                # Asked before and after: meanwhile the process can move to another namespace, or its pid be another's.
                if self._procfs.network_namespace(pid) != self._inode:
                    continue
                texts = [_read_if_there(f"{self._procfs.root}/{pid}/net/{name}") for name in names]
                if self._procfs.network_namespace(pid) == self._inode:
                    return texts
            except OSError:
                continue
        raise ProcessVanished(f"no process is left in network namespace {self._inode}")


def _read_if_there(path: str) -> bytes | None:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
