"""Sees to it that the event loop, which serves thousands of agents, soon has its turn among Python's threads."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Final

# A thread that computes gives way after so long; 5 ms unless told otherwise, which an answer takes several times over.
_SWITCH_SECONDS: Final = 0.001


def give_way_soon() -> None:
    """To be called once, when what stays has been made.

    The garbage collector stops every thread while it looks through all objects: those that stay, modules above all, are
    left out from now on.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what they hold is let go of in order then
