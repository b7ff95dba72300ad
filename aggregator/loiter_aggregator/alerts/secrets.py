"""Files that decide how an Alertmanager is trusted, and what is shown to it."""

from __future__ import annotations

import re
import ssl
from pathlib import Path


def read_secret(file: Path) -> str:
    """Reads a file with one secret in it. Raises ValueError, without quoting what is there."""
    try:
        with file.open("rb") as stream:
            content = stream.read(4_096).decode("ascii").strip()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        content = ""
    if re.fullmatch(r"[!-~]+( [!-~]+)*", content) is None:
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
