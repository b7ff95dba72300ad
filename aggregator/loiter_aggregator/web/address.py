"""Reads what an address asks for, and writes addresses that ask for a little more or less."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.datastructures import QueryParams
from starlette.requests import Request

from loiter.durations import format_duration, parse_duration
from loiter.limits import LABEL_KEY_PATTERN, MAX_LABEL_KEY_CHARS, MAX_WINDOW_SECONDS
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.fleet.errors import InvalidRequest

DEFAULT_WINDOW: Final = "1h"
WINDOWS: Final = ("10m", "1h", "6h", "1d", "7d")

_BEFORE_THE_PAGE_SECONDS: Final = 0.05
_ON_THE_PAGE_SECONDS: Final = 0.4
_LABEL_NAME: Final = re.compile(LABEL_KEY_PATTERN)

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a page: what it is of, and what it is asked for."""

    path: str
    pairs: Pairs

    def but(self, **changes: str | int | None) -> str:
        """The same with other values; None leaves a parameter out."""
        kept = [(name, value) for name, value in self.pairs if name not in changes]
        added = [(name, str(value)) for name, value in changes.items() if value not in (None, "")]
        return self._with(kept + added)

    def without(self, pair: tuple[str, str]) -> str:
        """The same without one value of a parameter that may be given several times."""
        return self._with([one for one in self.pairs if one != pair])

    def under(self, path: str) -> str:
        """Another page that is asked for the same."""
        return Address(path, self.pairs).but()

    def _with(self, pairs: Sequence[tuple[str, str]]) -> str:
        return f"{self.path}?{urlencode(pairs)}" if pairs else self.path


def patience(request: Request) -> float:
    """For how many seconds a first answer is waited for: a page comes soon, and waits for what is missing itself."""
    return _ON_THE_PAGE_SECONDS if "hx-request" in request.headers else _BEFORE_THE_PAGE_SECONDS


def address_of(request: Request, known: Sequence[str]) -> Address:
    """The address of a request with those parameters that the page knows: chats and mails add some of their own."""
    pairs = tuple((name, value) for name, value in request.query_params.multi_items() if name in known and value)
    return Address(request.url.path, pairs)


@dataclass(frozen=True, slots=True)
class Span:
    """The time a page is about: so many seconds, up to a moment (milliseconds since the epoch) or up to now."""

    text: str
    seconds: float
    until: int | None
    until_text: str

    @property
    def window(self) -> Duration:
        """How far back, as the questions take it."""
        return Duration(seconds=int(self.seconds), nanos=round(self.seconds % 1 * 1e9))

    @property
    def end_time(self) -> Timestamp | None:
        """Until when, as the questions take it."""
        return None if self.until is None else to_timestamp(self.until)

    @property
    def live(self) -> bool:
        """Whether what is shown goes on."""
        return self.until is None

    @property
    def words(self) -> str:
        """What it is, in words."""
        length = format_duration(self.seconds)
        if self.until is None:
            return f"last {length}"
        return f"{length} until {moment(self.until)[:19].replace('T', ' ')} UTC"

    @property
    def parameters(self) -> dict[str, str | None]:
        """What it is in the address of another page."""
        return {
            "window": None if self.text == DEFAULT_WINDOW else self.text,
            "until": self.until_text or None,
        }


def fixed_to_now(request: Request, address: Address, span: Span) -> str:
    """The address of what is shown now, which goes on showing that; empty where the page is not about now."""
    return address.but(until=moment(request.app.state.clock())) if span.live else ""


def read_span(query: QueryParams) -> Span:
    """Reads `window` and `until`. Raises InvalidRequest."""
    text = query.get("window") or DEFAULT_WINDOW
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise InvalidRequest(f"window: {error}") from None
    if not 1 <= seconds <= MAX_WINDOW_SECONDS:
        raise InvalidRequest(f"window: {text!r} is not between 1s and {MAX_WINDOW_SECONDS / 86_400:.0f}d")
    until_text = query.get("until", "")
    return Span(text, seconds, read_moment(until_text) if until_text else None, until_text)


def read_moment(text: str) -> int:
    """Reads a time as RFC 3339 writes it, as milliseconds since the epoch. Raises InvalidRequest."""
    try:
        # A plus sign that was not escaped stands for a space in an address.
        read = datetime.fromisoformat(text[:11] + text[11:].replace(" ", "+"))
    except ValueError:
        read = None
    if read is None or read.tzinfo is None or not 1970 <= read.year <= 9000:
        raise InvalidRequest(f"until: {text!r} is not a time; write it as 2026-11-23T05:00:00Z")
    return round(read.astimezone(UTC).timestamp() * 1_000)


def moment(milliseconds: int) -> str:
    """A time as it stands in an address, to the second."""
    return datetime.fromtimestamp(milliseconds // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_labels(query: QueryParams) -> dict[str, str]:
    """Reads the labels that hosts have to carry. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for given in filter(None, query.getlist("label")):
        name, equals, value = given.partition("=")
        if not equals or _LABEL_NAME.fullmatch(name) is None or len(name) > MAX_LABEL_KEY_CHARS:
            raise InvalidRequest(f"label: {given!r} is no label; write it as role=web")
        if name in found:
            raise InvalidRequest(f"label: {name} is given twice; a host has one value of each")
        found[name] = value
    return found


def read_number(query: QueryParams, name: str, least: int, most: int, default: int) -> int:
    """Reads a whole number. Raises InvalidRequest."""
    text = query.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise InvalidRequest(f"{name}: {text!r} is not a number from {least:,} to {most:,}")
    return int(text)


def read_name(query: QueryParams, name: str, example: str) -> str:
    """Reads a parameter that has to be there. Raises InvalidRequest."""
    if value := query.get(name, ""):
        return value
    raise InvalidRequest(f"{name} is missing from the address; write it as {example}")
