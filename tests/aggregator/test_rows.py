"""Rows become columns, which is how the store takes them in."""

from __future__ import annotations

import numpy as np
import pytest

from loiter_aggregator.store.figures import read_processes
from loiter_aggregator.store.rows import columns_of, process_rows
from loiter_aggregator.store.schema import PROCESS_SAMPLE
from support.reports import NOW, process, sample

ROW = list(PROCESS_SAMPLE)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("i8", (-(2**63), None, 2**63 - 1)),
        ("u8", (2**64 - 1, None, 2**53 + 1, 0)),
        ("u4", (2**32 - 1, None, 0)),
        ("u1", (255, None, 0)),
        ("f8", (0.1, None, 0.0)),
        ("?", (True, None, False)),
    ],
)
def test_a_column_holds_each_value_as_it_is_and_knows_which_are_unknown(kind: str, values: tuple[object, ...]) -> None:
    """With unknown ones among them, none of them, and nothing else."""
    for some in (values, tuple(value for value in values if value is not None), (None, None)):
        column = columns_of([(value,) for value in some], {"x": ("", kind)})["x"]
        assert column.dtype == np.dtype(kind)
        assert tuple(np.ma.asarray(column).tolist()) == some


@pytest.mark.parametrize(("kind", "value"), [("u1", 256), ("u8", -1), ("u4", 2**32)])
def test_a_value_that_does_not_fit_is_an_error(kind: str, value: int) -> None:
    """It is not stored as another one."""
    with pytest.raises(OverflowError):
        columns_of([(value,)], {"x": ("", kind)})


@pytest.mark.parametrize("name", ["established", "time_wait", "sockets", "fd_open", "fd_limit", "fd_limit_hard"])
def test_a_count_of_zero_is_told_from_one_that_is_unknown(name: str) -> None:
    """Of each process by itself."""
    one, other = process(1), process(2)
    setattr(one, name, 0)
    rows = process_rows(7, read_processes(sample(processes=[one, other])), NOW, lambda _: 1)
    assert [row[ROW.index(name)] for row in rows] == [0, None]
