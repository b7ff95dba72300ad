"""File descriptors of the aggregator: every agent that is connected takes one."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

# For the store, queries, readers, and agents that are turned away in words.
_RESERVED: Final = 500


def room_for_streams() -> int:
    """Raises the soft limit on descriptors to the hard one, and returns how many streams that leaves room for.

    See setrlimit(2). The usual soft limit of 1,024 would end a fleet at a thousand hosts, without a word.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # EPERM, by a sandbox: then the limit stays what it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    return max(limit - _RESERVED, limit // 2)
