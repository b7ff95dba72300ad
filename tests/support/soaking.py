"""Tells the long form of a test from the one that is part of every run: `make soak` sets SOAK=1."""

from __future__ import annotations

import os
from typing import Final

SOAK: Final = os.environ.get("SOAK") == "1"
