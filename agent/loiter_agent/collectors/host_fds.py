"""Reads the host's file handles."""

from __future__ import annotations

from loiter_agent.procfs import Procfs
from loiter_agent.sample import HostFds


class HostFdsCollector:
    """Reads /proc/sys/fs/file-nr."""

    name = "host_fds"

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs to read."""
        self._procfs = procfs

    def collect(self) -> HostFds:
        """Reads. Raises OSError where the file can not be read."""
        allocated, limit = self._procfs.file_nr()
        return HostFds(allocated, limit)
