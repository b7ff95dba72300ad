"""Text from other people's processes, made safe to show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter.text import printable

properties = settings(derandomize=True, max_examples=200, deadline=None, database=None)


@pytest.mark.parametrize("text", ["", "nginx: worker process", "café", "cafe\u0301", "日本語", "ที่นี่", r"C:\path"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    """In any script."""
    assert printable(text) is text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("two\r\nlines\t", r"two\r\nlines\t"),
        ("\x7f\x08\x00", r"\x7f\x08\x00"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041", r"\U000e0041"),
        ("z" + 5 * "\u0301" + "a", "z" + 4 * "\u0301" + r"\u0301a"),
    ],
    ids=["colour", "title", "C1", "line ends", "C0", "bidi", "separators", "zero width", "surrogate", "tag", "marks"],
)
def test_what_a_terminal_would_act_on_is_written_as_an_escape(text: str, shown: str) -> None:
    """Controls, overrides of the writing direction, separators and bytes that were no UTF-8."""
    assert printable(text) == shown


@properties
@given(st.text(st.characters()))
def test_the_result_is_inert_and_can_be_encoded(text: str) -> None:
    """Whatever it is made of; to do it twice changes nothing."""
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert printable(shown) == shown
