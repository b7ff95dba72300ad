"""The file of an agent's spool, with bytes changed: a bad disk, a file that was copied while in use, a hand at work."""

from __future__ import annotations

from functools import cache
from typing import Final

from fuzz.oracle import is_refusal
from fuzz.scratch import scratch
from loiter_agent.spool_bounds import Bounds, Now
from loiter_agent.spool_database import Corrupt, Unwritable
from loiter_agent.spool_file import SpoolFile
from support.reports import NOW, SECOND, boot_id, host_id, report

_HOST_ID: Final = host_id("web-1")
_BOOT_ID: Final = boot_id("web-1")
_NOW: Final = Now(_BOOT_ID, 100.0)
_GENEROUS: Final = Bounds(max_bytes=1_000_000, max_age=3_600)
_TIGHT: Final = Bounds(max_bytes=500, max_age=3_600)
_PATCH_BYTES: Final = 4
_MAX_READS: Final = 100


@cache
def _whole() -> bytes:
    """A spool with two epochs, and samples that were dropped."""
    path = scratch() / "whole.sqlite"
    spool = SpoolFile(_HOST_ID, path)
    for epoch in (7, 9):
        reports = [(report("web-1", sequence, epoch=epoch), NOW / SECOND) for sequence in range(1, 11)]
        spool.append(reports, Bounds(max_bytes=2_000, max_age=3_600), _NOW)
    spool.acknowledge(7, 2)
    spool.close()
    return path.read_bytes()


def spool_file(data: bytes) -> None:
    """Patches of a spool: where (three bytes), and what. It is refused by Corrupt or Unwritable, or works."""
    content = bytearray(_whole())
    for at in range(0, len(data) - _PATCH_BYTES + 1, _PATCH_BYTES):
        content[int.from_bytes(data[at : at + 3], "big") % len(content)] = data[at + 3]
    path = scratch() / "spool.sqlite"
    for leftover in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        spool = SpoolFile(_HOST_ID, path)
    except (Corrupt, Unwritable) as error:
        is_refusal(error)
        return
    try:
        _use(spool)
    except (Corrupt, Unwritable) as error:
        is_refusal(error)
    finally:
        spool.close()


def _use(spool: SpoolFile) -> None:
    for position in spool.positions():
        spool.waiting(position.epoch)
        at = position.sequence
        for _ in range(_MAX_READS):
            reports = spool.read(position.epoch, at)
            if not reports:
                break
            assert reports[-1].sequence > at, "the same reports again"
            at = reports[-1].sequence
        else:
            raise AssertionError("more reports than were ever put in")
    spool.append([(report("web-1", 1, epoch=11), NOW / SECOND)], _GENEROUS, _NOW)
    for position in spool.positions():
        spool.reject(position.epoch, position.sequence + 1)
    spool.append([(report("web-1", 2, epoch=11), NOW / SECOND)], _TIGHT, _NOW)
    for position in spool.positions():
        spool.acknowledge(position.epoch, position.sequence + 1)
    list(spool.rows())
