"""Who calls, and what that allows."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Right(Enum):
    """What a caller may do. Neither includes the other."""

    INGEST = "ingest"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller.

    `name` is for logs, such as `certificate web-1` or `token alice`. `hostnames` are the names in the certificate, in
    lower case, and `host_ids` the host ids in it; both None where no certificate binds the caller to a host.
    """

    name: str
    rights: frozenset[Right]
    hostnames: frozenset[str] | None = None
    host_ids: frozenset[str] | None = None


# Where nobody has to show anything: on the loopback address, or with --insecure.
ANYONE: Final = Principal("anyone", frozenset(Right))

# The caller of the call that is being served.
caller: ContextVar[Principal] = ContextVar("caller", default=ANYONE)
# Its address, without a port; empty where there is none.
caller_address: ContextVar[str] = ContextVar("caller_address", default="")

# Who asks where the program itself does.
OURSELVES: Final = ""


def who_asks() -> str:
    """Whom the call that is being served is for, to tell callers apart; OURSELVES outside of one."""
    address = caller_address.get()
    return f"{caller.get().name}\0{address}" if address else OURSELVES
