"""Says which loiter this is."""

from __future__ import annotations

from typing import Final

# Also that of the distribution: see pyproject.toml. To look it up there would take 3 MB of memory on every host.
_VERSION: Final = "0.3.0"


def version() -> str:
    """Returns the version."""
    return _VERSION
