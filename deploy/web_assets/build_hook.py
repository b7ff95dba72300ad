"""Has the build of a wheel or of a source archive fetch what the web page takes from others. See fetch.py."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WebAssets(BuildHookInterface):  # type: ignore[misc]  # there is no hatchling but where something is built
    """A hook of hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetches what is missing before anything is built, an editable install included."""
        del version, build_data
        fetch = runpy.run_path(str(Path(__file__).with_name("fetch.py")))
        if fetch["main"](()) != 0:
            sys.exit(1)
