"""Adds up why the CLOSE_WAIT sockets of many stay, and which of them are stuck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loiter.v1 import sample_pb2

# Those that there are anything to say about: sockets that come and go have none.
CAUSES: Final = tuple(cause for cause in sample_pb2.Cause.values() if cause)
# The columns of `cause_sums`.
CAUSE_COLUMNS: Final = tuple(f"cause{cause}" for cause in CAUSES)

# At least so many: as for other sums, what is unknown of one does not hide what is known of the others. But where any
# has CLOSE_WAIT sockets, it takes one of those to know whether they are stuck.
STUCK: Final = """
    CASE WHEN max(close_wait_now) > 0 THEN sum(CASE WHEN close_wait_now > 0 THEN stuck END) ELSE sum(stuck) END"""


def cause_sums(close_wait: str) -> str:
    """Adds up a column of CLOSE_WAIT sockets by the column `cause` beside it."""
    return ", ".join(
        f"sum(CASE WHEN cause = {cause} THEN {close_wait} END) AS {column}"
        for cause, column in zip(CAUSES, CAUSE_COLUMNS, strict=True)
    )


def is_most(cause: int) -> str:
    """A condition on the columns of `cause_sums`: `most` of them is this cause."""
    column = CAUSE_COLUMNS[CAUSES.index(sample_pb2.Cause.ValueType(cause))]
    before, after = CAUSE_COLUMNS[: CAUSE_COLUMNS.index(column)], CAUSE_COLUMNS[CAUSE_COLUMNS.index(column) + 1 :]
    conditions = [
        f"{column} > 0",
        *(f"{column} > coalesce({other}, 0)" for other in before),
        *(f"{column} >= coalesce({other}, 0)" for other in after),
    ]
    return " AND ".join(conditions)


def most(sockets: Sequence[int | None]) -> sample_pb2.Cause.ValueType | None:
    """The cause with the most CLOSE_WAIT sockets, of the sums in the order of `CAUSES`."""
    known = {cause: count for cause, count in zip(CAUSES, sockets, strict=True) if count}
    return max(known, key=lambda cause: known[cause], default=None)
