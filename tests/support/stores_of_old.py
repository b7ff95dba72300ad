"""Stores that older loiters made, from tests/fixtures."""

from __future__ import annotations

from pathlib import Path

import duckdb

_FIXTURES = Path(__file__).parent.parent / "fixtures"


def make_old_store(folder: Path, name: str) -> Path:
    """Makes the store that an older loiter made, such as store_v3. Returns its file."""
    file = folder / "loiter.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute((_FIXTURES / f"{name}.sql").read_text())
    return file
