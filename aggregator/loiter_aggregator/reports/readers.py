"""Readers of the settings in a file of reports: each takes a TOML value, and raises ValueError for a person."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from loiter.settings import path, text
from loiter_aggregator import receivers
from loiter_aggregator.reports.cron import Cron, parse_cron

FORMATS: Final = ("html", "md", "json", "csv")
_MAX_LISTED: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
# What RFC 5321 lets anybody have without quotes, in ASCII: nothing that ends a header or begins another address.
_MAIL_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.\[\]:-]{1,253}", re.ASCII)
_MAX_TITLE_CHARS: Final = 120


def name(value: object) -> str:
    """Reads a name of letters, digits, `_`, `.` and `-`."""
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a name: at most 63 letters, digits, '_', '.' and '-'")
    return value


def title(value: object) -> str:
    """Reads a line of text."""
    if not text(value).isprintable() or len(text(value)) > _MAX_TITLE_CHARS:
        raise ValueError(f"{value!r} is not a line of at most {_MAX_TITLE_CHARS} printable characters")
    return text(value)


def cron(value: object) -> Cron:
    """Reads a cron expression, crontab(5)."""
    return parse_cron(text(value))


def time_zone(value: object) -> ZoneInfo:
    """Reads the name of a time zone such as Europe/Berlin."""
    try:
        return ZoneInfo(text(value))
    except (LookupError, ValueError, OSError):
        raise ValueError(f"{value!r} is not a time zone; write a name such as Europe/Berlin, or UTC") from None


def formats(value: object) -> tuple[str, ...]:
    """Reads a list of `html`, `md`, `json` and `csv`."""
    for item in _list(value):
        if item not in FORMATS:
            raise ValueError(f"{item!r} is not one of {', '.join(FORMATS)}")
    return tuple(one for one in FORMATS if one in _list(value))


def names(value: object) -> tuple[str, ...]:
    """Reads a list of names."""
    return _distinct(name(item) for item in _list(value))


def mail_address(value: object) -> str:
    """Reads an e-mail address."""
    if not isinstance(value, str) or _MAIL_ADDRESS.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not an e-mail address such as ops@example.net")
    return value


def mail_addresses(value: object) -> tuple[str, ...]:
    """Reads a list of e-mail addresses."""
    return _distinct(mail_address(item) for item in _list(value))


def web_address(value: object) -> str:
    """Reads an address that begins with https:// or http://, without a user and a password in it."""
    parts = receivers.web_address(text(value), "https://example.net/hook")
    if "@" in parts.netloc:
        raise ValueError("an address holds no user and no password here; a secret belongs in its path, in url_file")
    return text(value)


def folder(value: object) -> Path:
    """Reads the absolute path of a folder."""
    found = path(value)
    if not found.is_absolute():
        raise ValueError(f"{str(value)!r} is not absolute; write a path that begins with /")
    return found


def host(value: object) -> str:
    """Reads a host name or an address."""
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", value) is None:
        raise ValueError(f"{value!r} is not the name or the address of a host")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{value!r} is not a list with something in it")
    if len(value) > _MAX_LISTED:
        raise ValueError(f"a list of more than {_MAX_LISTED}")
    return list(value)


def _distinct(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
