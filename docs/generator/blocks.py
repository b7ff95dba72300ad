"""Generated blocks in files that are written by hand otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

Blocks = Mapping[str, Callable[[], str]]

_BLOCK: Final = re.compile(r"^<!-- generated: ([a-z-]+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)


def names(text: str) -> list[str]:
    """The blocks of a file, in their order."""
    return [match[1] for match in _BLOCK.finditer(text)]


def fill(text: str, blocks: Blocks) -> str:
    """Replaces what stands in each block. Raises KeyError for a block that nobody knows how to write."""
    return _BLOCK.sub(lambda match: f"<!-- generated: {match[1]} -->\n{blocks[match[1]]()}\n<!-- end -->", text)
