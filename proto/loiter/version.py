"""Says which loiter this is."""

from __future__ import annotations

from importlib.metadata import version as _version_of


def version() -> str:
    """Returns the version of the installed distribution."""
    return _version_of("loiter")
