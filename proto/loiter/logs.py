"""How both programs log."""

from __future__ import annotations

import logging
from typing import Final

LOG_FORMATS: Final = ("auto", "text", "json", "journal")


def configure(program: str, log_format: str, level: str) -> None:
    """Sets the root logger up. `program` is the name in the journal, `log_format` one of LOG_FORMATS."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=level.upper())
