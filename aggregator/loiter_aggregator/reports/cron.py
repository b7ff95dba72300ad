"""Cron expressions: five fields, with the meaning that crontab(5) gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART: Final = re.compile(r"(\*|([0-9a-z]{1,4})(?:-([0-9a-z]{1,4}))?)(?:/([0-9]{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    first: int
    last: int
    names: Sequence[str] = ()


# Sunday is 0, and 7.
_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression.

    `repeats` tells that the hour is `*` or `*/n`: then it goes by the hours that pass, also by one that the clock shows
    twice. `either_day` tells that both days are restricted: then either is enough.
    """

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    repeats: bool

    @property
    def hourly(self) -> bool:
        """It is due in every hour."""
        return len(self.hours) == 24

    def falls_on(self, day: date) -> bool:
        """Whether it is due on a day."""
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday if self.either_day else by_date and by_weekday


def parse_cron(text: str) -> Cron:
    """Reads a cron expression. Raises ValueError, fit for a person."""
    words = text.lower().split()
    if len(words) != len(_FIELDS):
        raise ValueError(
            f"{text!r} is not a cron expression of five fields: minute, hour, day of the month, month, day of the week"
        )
    minutes, hours, days, months, weekdays = (_read(field, word) for field, word in zip(_FIELDS, words, strict=True))
    cron = Cron(
        text=" ".join(text.split()),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=not words[2].startswith("*") and not words[4].startswith("*"),
        repeats=words[1].startswith("*") or len(hours) == 24,
    )
    # In a leap year that begins on each day of the week there is every day that there can be.
    if not any(cron.falls_on(date.fromordinal(at)) for at in range(_FROM, _UNTIL)):
        raise ValueError(f"{text!r} is never due: there is no such day")
    return cron


# The 28 years after which the calendar repeats itself within a century.
_FROM: Final = date(2000, 1, 1).toordinal()
_UNTIL: Final = date(2028, 1, 1).toordinal()


def _read(field: _Field, word: str) -> set[int]:
    found: set[int] = set()
    for part in word.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not a {field.name}: write *, 5, 1-5, */10 or a list of these with commas")
        every, first, last, step = match.groups()
        if every == "*":
            low, high = field.first, min(field.last, 6) if field.names is _WEEKDAYS else field.last
        else:
            low = _number(field, first)
            high = low if last is None else _number(field, last)
        if high < low:
            raise ValueError(f"{part!r} is not a {field.name}: {last} comes before {first}")
        if step is not None and (int(step) == 0 or (every != "*" and last is None)):
            raise ValueError(f"{part!r} is not a {field.name}: a step is of * or of a range, and 1 or more")
        found.update(range(low, high + 1, int(step or 1)))
    return found


def _number(field: _Field, word: str) -> int:
    if word in field.names:
        return field.names.index(word) + field.first
    if not word.isdecimal() or not field.first <= int(word) <= field.last:
        raise ValueError(f"{word!r} is not a {field.name}: it goes from {field.first} to {field.last}")
    return int(word)
