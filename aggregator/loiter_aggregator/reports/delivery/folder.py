"""Delivers a report to a folder, as files of its schedule and due time: written whole, and again the same."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loiter.files import write_atomically
from loiter_aggregator.reports.delivery.failure import DeliveryError
from loiter_aggregator.reports.delivery.outgoing import Outgoing

# A report says who talks to whom: it is for the aggregator's user and its group.
_MODE: Final = 0o640


def deliver_to_folder(outgoing: Outgoing, folder: Path) -> None:
    """Writes the files; they are on the disk when this returns. Blocks. Raises DeliveryError."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        for form, content in outgoing.files.items():
            write_atomically(folder / f"{outgoing.stem}.{form}", content, _MODE)
    except OSError as error:
        raise DeliveryError(f"cannot write to {folder}: {error.strerror or error}") from None
