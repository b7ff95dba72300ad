"""Durations as people type and read them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter.durations import format_duration, parse_duration

properties = settings(derandomize=True, max_examples=200, deadline=None, database=None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10.0),
        ("0s", 0.0),
        ("5m", 300.0),
        ("1h", 3_600.0),
        ("7d", 604_800.0),
        ("1.5h", 5_400.0),
        ("0.25s", 0.25),
        (" 10s\n", 10.0),
    ],
)
def test_a_number_with_a_unit_is_a_duration(text: str, seconds: float) -> None:
    """White space around it does no harm."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "s",
        "10 s",
        "10S",
        "-5s",
        "+5s",
        "1e3s",
        ".5s",
        "5.s",
        "1h30m",
        "nan",
        "infs",
        "10sec",
        "\N{ARABIC-INDIC DIGIT ONE}s",
        "1" * 99,
    ],
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    """The message quotes what was written, and says how to write it."""
    with pytest.raises(ValueError, match=r"is not a duration; write it as 500ms, 10s, 5m, 1h or 7d") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (45.4, "45s"),
        (59.6, "1m"),
        (60, "1m"),
        (90, "1m 30s"),
        (12 * 60 + 30, "12m"),
        (3 * 3_600 + 20 * 60, "3h 20m"),
        (23 * 3_600 + 59 * 60, "23h"),
        (5 * 86_400 + 2 * 3_600, "5d 2h"),
        (30 * 86_400, "30d"),
    ],
)
def test_durations_are_written_in_the_units_that_matter(seconds: float, text: str) -> None:
    """Two units where the first has one figure, else one."""
    assert format_duration(seconds) == text


@properties
@given(st.integers(1, 10**9))
def test_what_is_written_reads_as_nearly_the_same(seconds: int) -> None:
    """What is left out is less than a tenth, and nothing is added."""
    read = sum(parse_duration(part) for part in format_duration(seconds).split())
    assert 0.9 * seconds < read <= seconds


@properties
@given(st.integers(1, 59), st.sampled_from(("s", "m")))
def test_short_durations_come_back_as_they_were_typed(number: int, unit: str) -> None:
    """Below the next larger unit."""
    assert format_duration(parse_duration(f"{number}{unit}")) == f"{number}{unit}"


def test_what_rounds_to_a_second_is_one() -> None:
    """Not a thousand milliseconds."""
    assert (format_duration(0.9996), format_duration(0.999)) == ("1s", "999ms")
