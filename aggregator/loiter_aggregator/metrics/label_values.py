"""Makes names that come from agents fit for the labels of Prometheus: short, printable, and each its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

from loiter.text import printable

_MAX_CHARS: Final = 100
_MARK: Final = "~"
_DIGEST_CHARS: Final = 8


def label_values(names: Mapping[str, str]) -> dict[str, str]:
    """Makes a label's value of each name, by the same key.

    A series that is there twice would have the whole scrape refused. So what is cut, what two names come to, and what
    looks as if it had one already, gets a part of the digest of its key; where somebody made names whose parts are the
    same, they get all of it.
    """
    shown = {key: printable(name) for key, name in names.items()}
    often = Counter(shown.values())
    marked = {
        key: text if _stands(text) and often[text] == 1 else _with_digest(text, key) for key, text in shown.items()
    }
    again = Counter(marked.values())
    return {key: text if again[text] == 1 else _with_digest(shown[key], key, None) for key, text in marked.items()}


def _stands(text: str) -> bool:
    return len(text) <= _MAX_CHARS and _MARK not in text


def _with_digest(text: str, key: str, chars: int | None = _DIGEST_CHARS) -> str:
    cut = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…"
    return f"{cut}{_MARK}{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:chars]}"
