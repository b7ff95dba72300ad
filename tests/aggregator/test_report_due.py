"""When reports are due: cron expressions by clocks that are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_aggregator.reports.cron import parse_cron
from loiter_aggregator.reports.due import Plan, Timing, latest_dues, next_due, plan

DAY = 86_400_000
HOUR = 3_600_000
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "America/Havana",
    "Asia/Kolkata",
    "Pacific/Apia",
)
ZONE = st.sampled_from(ZONES)
MOMENT = st.integers(
    round(datetime(2010, 1, 1, tzinfo=UTC).timestamp()), round(datetime(2035, 1, 1, tzinfo=UTC).timestamp())
).map(lambda seconds: seconds * 1_000)


def _timing(cron: str, zone: str = "UTC") -> Timing:
    return Timing(parse_cron(cron), ZoneInfo(zone))


def _at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def _shown(timing: Timing, after: str, number: int) -> list[str]:
    """The next times, by the clock of the zone."""
    found = []
    due = _at(after)
    for _ in range(number):
        following = next_due(timing, due)
        assert following is not None
        due = following
        found.append(datetime.fromtimestamp(due / 1_000, timing.zone).strftime("%m-%d %H:%M%z"))
    return found


def test_five_fields_have_the_meaning_that_crontab_gives_them() -> None:
    """Sunday is 0 and 7, names stand for numbers, and of two days that are restricted either is enough."""
    after = "2026-11-22T12:00:00+00:00"  # a Sunday
    assert _shown(_timing("0 8 * * 0"), after, 1) == _shown(_timing("0 8 * * 7"), after, 1) == ["11-29 08:00+0000"]
    assert _shown(_timing("30 6 * * mon-fri"), after, 2) == ["11-23 06:30+0000", "11-24 06:30+0000"]
    assert _shown(_timing("0 8 24 * fri"), after, 2) == ["11-24 08:00+0000", "11-27 08:00+0000"]
    assert _shown(_timing("*/20 8-9 1 JAN *"), after, 4) == [
        "01-01 08:00+0000",
        "01-01 08:20+0000",
        "01-01 08:40+0000",
        "01-01 09:00+0000",
    ]
    assert _shown(_timing("0 0 29 2 *"), after, 1) == ["02-29 00:00+0000"]


@pytest.mark.parametrize(
    "wrong",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "5-1 * * * *",
     "*/0 * * * *", "5/2 * * * *", "a * * * *", "* * 30 2 *", "@daily", "1,,2 * * * *", "٣ * * * *"],
)  # fmt: skip
def test_what_is_no_cron_expression_is_said(wrong: str) -> None:
    """So is one that is never due."""
    with pytest.raises(ValueError, match=r"cron expression|is not a|never due"):
        parse_cron(wrong)


def test_a_time_that_the_clock_skips_is_due_right_after_the_gap() -> None:
    """02:30 is at 03:00 on the day that has no 02:30; what is due in every hour has its hours without."""
    after = "2026-03-28T12:00:00+00:00"
    assert _shown(_timing("30 2 * * *", "Europe/Berlin"), after, 2) == ["03-29 03:00+0200", "03-30 02:30+0200"]
    assert _shown(_timing("0 */2 * * *", "Europe/Berlin"), "2026-03-28T22:30:00+00:00", 3) == [
        "03-29 00:00+0100",
        "03-29 03:00+0200",
        "03-29 04:00+0200",
    ]
    assert _shown(_timing("30 * * * *", "Europe/Berlin"), "2026-03-29T00:00:00+00:00", 2) == [
        "03-29 01:30+0100",
        "03-29 03:30+0200",
    ]
    # A whole day was left out there.
    assert _shown(_timing("0 9 * * *", "Pacific/Apia"), "2011-12-29T20:00:00+00:00", 2) == [
        "12-31 00:00+1400",
        "12-31 09:00+1400",
    ]


def test_a_time_that_the_clock_shows_twice_is_due_once_unless_it_goes_by_the_hour() -> None:
    """The first time."""
    after = "2026-10-24T22:30:00+00:00"
    assert _shown(_timing("30 2 * * *", "Europe/Berlin"), after, 2) == ["10-25 02:30+0200", "10-26 02:30+0100"]
    assert _shown(_timing("30 * * * *", "Europe/Berlin"), after, 4) == [
        "10-25 01:30+0200",
        "10-25 02:30+0200",
        "10-25 02:30+0100",
        "10-25 03:30+0100",
    ]


@settings(derandomize=True, max_examples=50, deadline=None)
@given(ZONE, MOMENT, st.integers(0, 23), st.integers(0, 59))
def test_what_is_due_once_a_day_is_due_once_on_every_day(zone: str, start: int, hour: int, minute: int) -> None:
    """In every zone and year: strictly later each time, never lost, never doubled, however the clock is put."""
    timing = _timing(f"{minute} {hour} * * *", zone)
    due, days = start, []
    for _ in range(5):
        following = next_due(timing, due)
        assert following is not None
        assert following > due
        due = following
        days.append(datetime.fromtimestamp(due / 1_000, ZoneInfo(zone)))
    for one, other in pairwise(days):
        skipped = zone == "Pacific/Apia" and one.year == 2011 and one.month == 12
        assert skipped or (other.date() - one.date()).days == 1
    assert latest_dues(timing, start, due, 5) == [round(one.timestamp() * 1_000) for one in days]


@settings(derandomize=True, max_examples=25, deadline=None)
@given(ZONE, st.integers(2010, 2034), st.sampled_from(("15 * * * *", "0 */2 * * *", "30 2,3 * * *", "*/30 1-3 * * *")))
def test_no_time_of_a_year_is_lost_where_clocks_are_put(zone: str, year: int, cron: str) -> None:
    """Around every change of the offset: each matching minute is due, and nothing else but ends of gaps."""
    timing = _timing(cron, zone)
    for change in _changes(ZoneInfo(zone), year):
        start, end = change - 8 * HOUR, change + 8 * HOUR
        dues = latest_dues(timing, start - 1, end, 1_000)
        assert dues == sorted(set(dues))
        shown = {due: datetime.fromtimestamp(due / 1_000, ZoneInfo(zone)) for due in dues}
        matching = {
            at: local
            for at in range(start, end + 1, 60_000)
            if (local := datetime.fromtimestamp(at / 1_000, ZoneInfo(zone))).minute in timing.cron.minutes
            and local.hour in timing.cron.hours
        }
        first_times = {at for at, local in matching.items() if not local.fold}
        assert first_times <= set(dues)
        assert {at for at, local in matching.items() if local.fold} & set(dues) == (
            {at for at, local in matching.items() if local.fold} if timing.cron.repeats else set()
        )
        assert all(due in matching or due == change for due in shown)


def _changes(zone: ZoneInfo, year: int) -> list[int]:
    """When the offset of a zone changes within a year."""
    found = []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        low, high = round(day.timestamp()), round((day + timedelta(days=1)).timestamp())
        if _offset(zone, low) != _offset(zone, high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == _offset(zone, low) else (low, middle)
            found.append(high * 1_000)
        day += timedelta(days=1)
    return found


def _offset(zone: ZoneInfo, seconds: int) -> timedelta | None:
    return datetime.fromtimestamp(seconds, zone).utcoffset()


def test_of_what_was_missed_the_latest_is_built_unless_it_is_too_late() -> None:
    """Those before it were missed."""
    timing = _timing("0 8 * * *")
    looked, now = _at("2026-11-19T12:00:00+00:00"), _at("2026-11-22T20:00:00+00:00")
    days = [_at(f"2026-11-{day}T08:00:00+00:00") for day in (20, 21, 22)]
    assert plan(timing, looked, now, DAY, 20) == Plan(days[2], (days[0], days[1]))
    assert plan(timing, looked, now, 6 * HOUR, 20) == Plan(None, tuple(days))
    assert plan(timing, looked, now, DAY, 2) == Plan(days[2], (days[0], days[1]))
    assert plan(timing, looked, now, DAY, 1) == Plan(days[2], (days[0],)), "of many the first is named, too"
    assert plan(timing, now, now, DAY, 20) == Plan(None, ())
    assert plan(timing, now, looked, DAY, 20) == Plan(None, ())


@pytest.mark.parametrize("cron", ["* * * * *", "0 8 * * *", "*/5 8-17 * * mon-fri"])
def test_a_due_time_is_found_without_looking_at_every_minute(cron: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again and again, by the loop that serves the agents: the clock is looked at by the hour."""
    asked = 0

    def offset(moment: datetime) -> int:
        nonlocal asked
        asked += 1
        found = moment.utcoffset()
        assert found is not None
        return found // timedelta(seconds=1)

    monkeypatch.setattr("loiter_aggregator.reports.due._offset", offset)
    assert next_due(_timing(cron, "Europe/Berlin"), _at("2026-06-10T12:00:00+00:00")) is not None
    assert asked <= 4 * 24 * 3


def test_a_clock_that_is_set_to_anything_does_no_harm() -> None:
    """Before the epoch, and beyond all calendars."""
    timing = _timing("0 8 * * *", "Europe/Berlin")
    assert next_due(timing, -10_000_000) == _at("1970-01-01T07:00:00+00:00")
    assert next_due(timing, 10**18) is None
    assert latest_dues(timing, 0, 10**18, 3) == []
