"""File descriptors of the aggregator: every agent that is connected takes one."""

from __future__ import annotations

import resource
from typing import Final

# For the store, queries, readers, and agents that are turned away in words.
_RESERVED: Final = 500


def room_for_streams() -> int:
    """Raises the soft limit on descriptors to the hard one, and returns how many streams that leaves room for.

    See setrlimit(2). The usual soft limit of 1,024 would end a fleet at a thousand hosts, without a word.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - _RESERVED, hard // 2)
