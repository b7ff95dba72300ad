"""JSON and CSV, for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence

from loiter.text import printable
from loiter_aggregator.output.rows import NESTED, Row

# A spreadsheet takes a cell that begins so for a formula; some take the full-width forms for it, too.
# And where decimals have a comma, a semicolon begins a cell.
_FORMULA = re.compile("(^|;)(?=[-=+@\t\r\n\uff1d\uff0b\uff0d\uff20])")


def as_json(document: object, compact: bool = False) -> str:
    """Writes JSON: one line where `compact`, as for one answer in a row of many."""
    return json.dumps(document) if compact else json.dumps(document, indent=2)


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Writes CSV (RFC 4180) with a header. Unknown is an empty cell.

    Texts are made safe to show, and one that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
    return out.getvalue()


def csv_columns(row: Row) -> list[str]:
    """The columns of a row that fit a cell."""
    return [key for key in row if key not in NESTED]


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return printable(_FORMULA.sub(r"\1'", value))
    return value
