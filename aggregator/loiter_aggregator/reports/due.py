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
_HOUR_MS: Final = 3_600_000
_EVER: Final = 2**63


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
        later = min(_dues_of(timing, day, after, _EVER if found is None else found), default=None)
        if found is not None:
            return found if later is None else later
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
        found.update(_dues_of(timing, day, after, until))
        if enough:  # nor can the day before have a later one
            break
        enough = len(found) >= at_most
    return sorted(found)[-at_most:]


def plan(timing: Timing, looked: int, now: int, grace_ms: int, at_most: int) -> Plan:
    """Decides about what was due in (looked, now]: the latest is built unless it is too late, those before are missed.

    Of more than `at_most`, the first and the latest are named: where it was the clock that was ahead, the first tells
    since when.
    """
    dues = latest_dues(timing, looked, now, at_most)
    if len(dues) == at_most and (first := next_due(timing, looked)) is not None and first < dues[0]:
        dues = [first, *dues]
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


def _dues_of(timing: Timing, day: date, after: int, until: int) -> Iterator[int]:
    """The times in (after, until] at which it is due on a day of the zone's calendar. They need not be in order."""
    if not timing.cron.falls_on(day):
        return
    for hour in timing.cron.hours:
        # The zone is put to it where it is looked at.
        local = datetime(day.year, day.month, day.day, hour)  # noqa: DTZ001
        begins = _steady_hour(local, timing.zone)
        if begins is None:
            dues = (due for minute in timing.cron.minutes for due in _instants(local.replace(minute=minute), timing))
        elif begins > until or begins + _HOUR_MS <= after:
            continue
        else:
            dues = (begins + minute * 60_000 for minute in timing.cron.minutes)
        yield from (due for due in dues if after < due <= until)


def _steady_hour(local: datetime, zone: ZoneInfo) -> int | None:
    """When an hour by the clock of a zone begins; None where the clock is put within it, or shows part of it twice.

    Most hours are steady: there is nothing to be looked up for each minute of them.
    """
    times = (local, local.replace(minute=59))
    offsets = {_offset(time.replace(tzinfo=zone, fold=fold)) for time in times for fold in (0, 1)}
    return ((local - _EPOCH) // _SECOND - offsets.pop()) * 1_000 if len(offsets) == 1 else None


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
