"""When a report is due: cron expressions by the clock of a time zone, whose clocks are put forward and back.

A time that the clock skips is due right after the gap: 02:30 in spring at 03:00. Of an expression that is due in every
hour it is left out, since the hours that there are have theirs. A time that the clock shows twice is due the first
time; of an expression whose hour is `*` or `*/n`, both times. So do Debian's cron and cronie.

Pure: times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from loiter_aggregator.reports.cron import Cron

# 29 February comes again after eight years at most, around a year such as 2100.
_FAR_DAYS: Final = 9 * 366
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - of local times
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Timing:
    """An expression and the zone of its clock."""

    cron: Cron
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about what was due: at most one report is built, and the others were missed."""

    run: int | None
    missed: tuple[int, ...]


def next_due(timing: Timing, after: int) -> int | None:
    """The first time after `after`; None where there is none within nine years."""
    today = _day_of(timing.zone, after)
    if today is None:
        return None
    found: int | None = None
    # From the day before, since the zone's clock may go back over midnight.
    for ahead in range(-1, _FAR_DAYS):
        day = _shifted(today, ahead)
        if day is None:
            break
        later = min((due for due in _dues_of(timing, day) if due > after), default=None)
        if found is not None:
            return found if later is None else min(found, later)
        found = later
    return found


def latest_dues(timing: Timing, after: int, until: int, at_most: int) -> list[int]:
    """The latest times in (after, until], oldest first; at most so many."""
    last = _day_of(timing.zone, until)
    first = _day_of(timing.zone, after)
    if first is None or last is None or until <= after:
        return []
    found: set[int] = set()
    enough = False
    for back in range(-1, (last - first).days + 2):
        day = _shifted(last, -back)
        if day is None:
            break
        found.update(due for due in _dues_of(timing, day) if after < due <= until)
        if enough:  # nor can the day before have a later one
            break
        enough = len(found) >= at_most
    return sorted(found)[-at_most:]


def plan(timing: Timing, looked: int, now: int, grace_ms: int, at_most: int) -> Plan:
    """Decides about what was due in (looked, now]: the latest is built unless it is too late, those before are missed.

    Of more than `at_most`, the oldest are passed over.
    """
    dues = latest_dues(timing, looked, now, at_most)
    if dues and now - dues[-1] <= grace_ms:
        return Plan(dues[-1], tuple(dues[:-1]))
    return Plan(None, tuple(dues))


def _day_of(zone: ZoneInfo, milliseconds: int) -> date | None:
    """The day by the clock of a zone; None where a clock is set to what no calendar has."""
    try:
        return datetime.fromtimestamp(milliseconds / 1_000, UTC).astimezone(zone).date()
    except (OverflowError, ValueError, OSError):
        return None


def _shifted(day: date, days: int) -> date | None:
    try:
        return day + timedelta(days=days)
    except OverflowError:
        return None


def _dues_of(timing: Timing, day: date) -> Iterator[int]:
    """The times at which it is due on a day of the zone's calendar. They need not be in order."""
    if not timing.cron.falls_on(day):
        return
    for hour in timing.cron.hours:
        for minute in timing.cron.minutes:
            # The zone is put to it there.
            yield from _instants(datetime(day.year, day.month, day.day, hour, minute), timing)  # noqa: DTZ001


def _instants(local: datetime, timing: Timing) -> Iterator[int]:
    """When the clock of a zone shows a time: once, twice, or never, and then when it skips it."""
    since_epoch = (local - _EPOCH) // _SECOND
    before = _offset(local.replace(tzinfo=timing.zone, fold=0))
    after = _offset(local.replace(tzinfo=timing.zone, fold=1))
    if before >= after:
        yield (since_epoch - before) * 1_000
        if before > after and timing.cron.repeats:
            yield (since_epoch - after) * 1_000
    elif not timing.cron.hourly:
        yield _transition(timing.zone, since_epoch - after, since_epoch - before) * 1_000


def _transition(zone: ZoneInfo, low: int, high: int) -> int:
    """The second at which the offset changes, in (low, high]."""
    before = _offset(datetime.fromtimestamp(low, zone))
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, zone)) == before:
            low = middle
        else:
            high = middle
    return high


def _offset(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None, "it has a zone"
    return offset // _SECOND
