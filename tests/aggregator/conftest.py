"""What the tests of the aggregator share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDbStore]:
    """An empty store."""
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands at NOW."""
    return FakeClock()
