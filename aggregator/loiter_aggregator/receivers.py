"""Programs that alerts and reports are sent to: where they are, by what they are trusted, and what is shown to them."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

_MAX_SECRET_BYTES: Final = 4_096


def web_address(address: str, example: str) -> SplitResult:
    """Takes the address of a web server apart. Raises ValueError for any other text.

    The message does not quote it, as it may hold a secret, but shows an example.
    """
    import httpx  # takes its time, and most have no receivers

    if re.fullmatch(r"[!-~]*", address) is None:
        raise ValueError("an address holds no spaces and no letters beyond ASCII; write these as %20 and the like")
    try:
        parts = urlsplit(address)
        port_is_good = parts.port != 0  # reading it raises for what is no number
        httpx.URL(address)  # which is what will be asked to go there
    except (ValueError, httpx.InvalidURL):
        raise ValueError(f"not an address such as {example}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not port_is_good:
        raise ValueError(f"not an address such as {example}")
    return parts


def read_secret(file: Path) -> str:
    """Reads a file with one secret in it. Raises ValueError, without quoting what is there."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_SECRET_BYTES).decode("ascii").strip()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        content = ""
    # A second line would forge a header, or a command of SMTP.
    if re.fullmatch(r"[ -~]+", content) is None:
        raise ValueError(f"{file} holds no secret: a line of letters, digits and signs")
    return content


def trust(ca: Path | None) -> ssl.SSLContext:
    """Whom to trust at the other end: the system's authorities without a file. Raises ValueError."""
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ValueError(f"{ca} holds no certificates (PEM)") from None
    except OSError as error:
        raise ValueError(f"cannot read {ca}: {error.strerror}") from None
