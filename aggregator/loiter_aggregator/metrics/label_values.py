"""Makes names that come from agents fit for the labels of Prometheus: short, printable, and each its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

from loiter.text import printable

_MAX_CHARS: Final = 100


def label_values(names: Mapping[str, str]) -> dict[str, str]:
    """Makes a label's value of each name, by the same key.

    Where two names come to the same, as those of two hosts of one name do, a part of the digest of the key tells them
    apart: a series that is there twice would have the whole scrape refused.
    """
    shown = {key: _shortened(printable(name)) for key, name in names.items()}
    often = Counter(shown.values())
    return {key: value if often[value] == 1 else f"{value}~{_digest(key)}" for key, value in shown.items()}


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
