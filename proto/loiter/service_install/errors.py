"""What goes wrong as a service is installed or removed."""

from __future__ import annotations


class InstallError(Exception):
    """It can not be done. The message says what failed, where, and what to do."""
