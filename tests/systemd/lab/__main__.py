"""Builds the template of the lab, so that no test waits for it. Where the machine can not run the lab, it says why."""

from __future__ import annotations

import os
import sys

from systemd.lab.machine import why_not
from systemd.lab.template import template
from systemd.lab.tools import LabError


def main() -> str | None:
    """Returns what went wrong. That this machine can not run the lab is wrong only where LOITER_LAB requires it."""
    reason = why_not()
    if reason is not None and os.environ.get("LOITER_LAB") == "required":
        return f"this machine can not run the lab: {reason}"
    if reason is not None:
        print(f"this machine can not run the lab: {reason}")
        return None
    try:
        print(template())
    except LabError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
