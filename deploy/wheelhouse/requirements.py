"""Prints the requirements that a report of pip lists, each with its version and hash, and copies their wheels.

Usage: requirements.py FOLDER <report.json, of `pip install --dry-run --report - --find-links …`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def main(folder: Path) -> None:
    """Reads the report from standard input."""
    for item in sorted(json.load(sys.stdin)["install"], key=lambda item: str(item["metadata"]["name"]).lower()):
        shutil.copy(_file(item), folder)
        print(requirement(item))


def requirement(item: dict[str, Any]) -> str:
    """Returns the line of one package, in the form of `pip install --require-hashes`."""
    metadata, hashes = item["metadata"], item["download_info"]["archive_info"]["hashes"]
    return f"{metadata['name']}=={metadata['version']} --hash=sha256:{hashes['sha256']}"


def _file(item: dict[str, Any]) -> Path:
    """Where its wheel is: all have been collected before. See the specification of direct_url.json (PEP 610)."""
    url = urlsplit(item["download_info"]["url"])
    if url.scheme != "file":
        raise SystemExit(f"{url.geturl()} was to be collected before")
    return Path(unquote(url.path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
