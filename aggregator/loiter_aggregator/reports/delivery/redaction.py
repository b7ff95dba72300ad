"""Keeps out of what is recorded and shown what a receiver may not have been told for that: it may echo it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

_MASK: Final = "…"
# What is shorter is no secret, and stands in half of all words.
_MIN_SECRET_CHARS: Final = 4


def secrets_of(url: str, *others: str) -> list[str]:
    """What of an address may be secret, as it may be written: each part of its path and its query, and all of it.

    `others` are secret besides, such as the key that messages are signed with.
    """
    parts = urlsplit(url)
    named = [value for pair in parts.query.split("&") for value in (pair, pair.partition("=")[2])]
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    found = [url, target, parts.path, parts.query, *parts.path.split("/"), *named]
    found += [parts.username or "", parts.password or "", *others]
    return sorted({form for one in found for form in _forms(one)}, key=len, reverse=True)


def _forms(secret: str) -> Iterable[str]:
    """As it stands, and percent-encoded and decoded (RFC 3986), also as in a form."""
    forms = {secret, unquote(secret), unquote_plus(secret)}
    forms |= {encode(form, safe="") for form in tuple(forms) for encode in (quote, quote_plus)}
    return (form for form in forms if len(form) >= _MIN_SECRET_CHARS)


def without(secrets: Iterable[str], said: str) -> str:
    """What was said, without the secrets, the longest of which come first."""
    for secret in secrets:
        said = re.sub(re.escape(secret), _MASK, said, flags=re.IGNORECASE)
    return said
