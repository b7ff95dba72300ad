"""Makes the pictures of the documentation: a fleet with something to see, looked at for some minutes.

As a program: screenshots.py [FOLDER] [--wait SECONDS]. Chromium has to be installed.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.browser import running_browser, watched
from support.programs import ROOT
from support.watched_fleet import WatchedFleet, watched_fleet

_IMAGES: Final = ROOT / "docs" / "images"
_COLOURS: Final = 200
_MAX_BYTES: Final = 150_000

# What is looked at: the address, how, and how much of it.
_PICTURES: Final[Mapping[str, tuple[str, str, int, int]]] = {
    "fleet-light": ("/?window=10m", "light", 1280, 1000),
    "ranking-dark": ("/top/processes?window=10m&limit=14", "dark", 1280, 720),
    "process-light": ("/process?host={host}&pid={pid}&window=10m", "light", 1280, 1000),
    "phone-dark": ("/host?name=web-1&window=10m", "dark", 390, 844),
}


def take(browser: Browser, fleet: WatchedFleet, picture: str) -> bytes:
    """Takes a picture of a page once all of it is there, as a small PNG."""
    path, scheme, width, height = _PICTURES[picture]
    view = {"width": width, "height": height}
    with watched(browser, fleet.url, viewport=view, color_scheme=scheme) as one:
        page = one.show(path.format(host=fleet.host, pid=fleet.leaking_pid))
        page.wait_for_timeout(2_000)
        shown = Image.open(io.BytesIO(page.screenshot()))
        one.check()
    out = io.BytesIO()
    shown.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        out, "PNG", optimize=True
    )
    return out.getvalue()


def main() -> None:
    """Takes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=_IMAGES)
    parser.add_argument("--wait", type=float, default=240, help="for how many seconds the fleet runs before")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed; on Debian: apt-get install chromium")
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, watched_fleet(Path(folder), hostile=False) as fleet:
        time.sleep(options.wait)
        with running_browser(chromium) as browser:
            for picture in _PICTURES:
                content = take(browser, fleet, picture)
                (options.folder / f"{picture}.png").write_bytes(content)
                print(f"{picture}.png  {len(content):,} bytes" + ("  too large" if len(content) > _MAX_BYTES else ""))


if __name__ == "__main__":
    main()
