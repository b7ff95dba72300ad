"""Which part of a page the live view shows, how it is laid out, and what its last line tells."""

from __future__ import annotations

import pytest
from rich.text import Text

from loiter.limits import MAX_WINDOW_SECONDS
from loiter_aggregator.live.app import next_window
from loiter_aggregator.live.keys import KEYS, MEASURE_KEYS, help_lines, key_line
from loiter_aggregator.live.layout import Line, fitting, lay_out, two_sides
from loiter_aggregator.live.pages import Content
from loiter_aggregator.live.viewport import Extent, Viewport
from loiter_aggregator.output.tables import HOSTS, PROCESSES, by_measure
from loiter_aggregator.queries import MEASURES
from loiter_aggregator.rankings import KINDS

WIDTH, HEIGHT = 80, 5


def ranked(keys: str) -> Extent:
    """A ranking: nothing but rows."""
    return Extent(lines=len(keys), keys=keys, width=WIDTH)


def viewport(extent: Extent) -> Viewport:
    """A screen of five lines that shows its top."""
    one = Viewport()
    one.show(extent, WIDTH, HEIGHT)
    return one


def text(line: Line) -> str:
    """A line without its styles."""
    return "".join(segment.text for segment in line)


def test_a_row_that_was_chosen_stays_chosen_wherever_it_goes() -> None:
    """Also out of sight: then the screen follows it."""
    view = viewport(ranked("abcdefghij"))
    view.move(2)
    view.show(ranked("cabdefghij"), WIDTH, HEIGHT)
    assert (view.index, view.top) == (0, 0)
    view.show(ranked("abdefghijc"), WIDTH, HEIGHT)
    assert (view.index, view.top, view.marked()) == (9, 5, 9)


def test_before_a_row_was_chosen_the_first_is_marked_whoever_that_is() -> None:
    """A view that is left alone shows the worst."""
    view = viewport(ranked("abcdefghij"))
    view.show(ranked("jabcdefghi"), WIDTH, HEIGHT)
    assert (view.index, view.top) == (0, 0)
    view.move(3)
    view.home()
    view.show(ranked("abcdefghij"), WIDTH, HEIGHT)
    assert view.index == 0


def test_a_chosen_row_that_is_gone_leaves_its_place_to_the_next() -> None:
    """And comes back as itself."""
    view = viewport(ranked("abcdef"))
    view.move(2)
    view.show(ranked("abdef"), WIDTH, HEIGHT)
    assert view.index == 2
    view.show(ranked("abcdef"), WIDTH, HEIGHT)
    assert view.index == 2
    view.show(ranked(""), WIDTH, HEIGHT)
    assert view.marked() is None


def test_moving_scrolls_no_further_than_the_page_reaches() -> None:
    """In both directions, by rows and by screens."""
    view = viewport(ranked("abcdefghij"))
    view.page(1)
    assert (view.index, view.top) == (4, 0)
    view.move(100)
    assert (view.index, view.top) == (9, 5)
    view.move(1)
    assert (view.index, view.top, view.below()) == (9, 5, 0)
    view.move(-100)
    view.move(-1)
    assert (view.index, view.top, view.below()) == (0, 0, 5)
    view.end()
    assert (view.index, view.top) == (9, 5)


def test_a_page_with_text_around_its_rows_is_scrolled_through_whole() -> None:
    """What is above is seen first, the rows are marked one by one, and what is below comes last."""
    view = viewport(Extent(lines=20, first=8, keys="abc", width=WIDTH))
    seen = []
    for _ in range(20):
        seen.append((view.top, view.index))
        view.move(1)
    assert seen[:5] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]
    assert seen[5:8] == [(5, 1), (6, 2), (7, 2)]
    assert seen[-1] == (15, 2)


def test_a_page_without_rows_scrolls() -> None:
    """Such as an explanation."""
    view = viewport(Extent(lines=9, width=WIDTH))
    view.move(1)
    assert (view.top, view.marked()) == (1, None)
    view.page(1)
    assert view.top == 4
    view.home()
    assert view.top == 0


def test_a_smaller_terminal_keeps_the_chosen_row_in_sight() -> None:
    """And a larger one shows no emptiness that it need not."""
    view = viewport(ranked("abcdefghij"))
    view.move(4)
    view.show(ranked("abcdefghij"), WIDTH, 2)
    assert (view.index, view.top) == (4, 3)
    view.show(ranked("abcdefghij"), WIDTH, 100)
    assert (view.index, view.top) == (4, 0)


def test_a_wide_page_scrolls_sideways_as_far_as_it_reaches() -> None:
    """By half a screen; a wider terminal shows it whole."""
    view = viewport(Extent(lines=1, keys="a", width=110))
    view.sideways(1)
    assert view.left == 30
    view.sideways(-1)
    assert view.left == 0
    view.sideways(1)
    view.show(Extent(lines=1, keys="a", width=110), 120, HEIGHT)
    assert view.left == 0


ROW = {
    **KINDS["hosts"].empty,
    "host": "a-host-of-a-name-of-some-length",
    "close_wait": 12_345,
    "cause": "stalled_reader",
}


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
def test_a_table_never_cuts_a_figure_and_has_a_line_for_each_row(width: int) -> None:
    """Where the screen is too narrow, it goes on to the right."""
    sheet = lay_out(Content((), HOSTS, [ROW] * 3, "abc", [None] * 3, pinned=True), width, wide=False)
    assert (len(sheet.head), len(sheet.body), sheet.extent.first) == (1, 3, 0)
    for line in sheet.body:
        assert "12,345" in text(line)
        assert "stalled_reader" in text(line)
    assert sheet.extent.width <= max(width, 80)


def test_columns_of_the_wide_form_are_shown_where_there_is_room() -> None:
    """When it breaks and how many stay first, then from the left; and all of them in the wide form."""
    narrow, some, whole = ([one.title for one in fitting(HOSTS, [ROW], w) if not one.wide_only] for w in (80, 140, 300))
    assert set(narrow) < set(some) < set(whole)
    assert [one for one in ("FD-ETA", "STUCK", "PORTS%") if one not in some] == []
    assert whole == [column.title for column in HOSTS]
    (titles,) = lay_out(Content((), HOSTS, [ROW], "a", [None], pinned=True), 80, wide=True).head
    assert text(titles).split()[-1] == "LABELS"


def test_on_a_narrow_screen_a_trend_gives_way_to_when_it_breaks() -> None:
    """Names are cut for it, and figures are not; and how well a line fits is not said without its slope."""
    row = {**KINDS["processes"].empty, **ROW, "app": "forgets_to_close.py", "close_wait_growth_per_hour": 14_400.0}
    shown = [one.title for one in fitting(PROCESSES, [row], 80) if not one.wide_only]
    assert shown == ["#", "HOST", "PID", "APP", "CLOSE_WAIT", "GROWTH/h", "r²", "CAUSE", "FD%", "FD-ETA"]
    assert lay_out(Content((), PROCESSES, [row], "a", [None], pinned=True), 80, wide=False).extent.width <= 80
    by_time_wait = [one.title for one in fitting(by_measure(HOSTS, "time-wait"), [ROW], 80) if not one.wide_only]
    assert "r²" not in by_time_wait


def test_a_page_stands_in_one_piece_unless_its_table_is_pinned() -> None:
    """Text above, titles, rows, text below."""
    content = Content((Text("above"), Text("too")), HOSTS, [ROW], "a", [None], (Text("below"),))
    sheet = lay_out(content, WIDTH, wide=False)
    assert sheet.head == []
    assert sheet.extent.first == 3
    assert [text(line).split()[0] for line in sheet.body] == ["above", "too", "#", "0", "below"]


def test_texts_are_broken_at_the_width_and_their_markup_is_text() -> None:
    """Nothing of them is to the right."""
    sheet = lay_out(Content((Text("[bold]word[/] " * 20),)), 40, wide=False)
    assert sheet.extent.width <= 40
    assert "[bold]word[/]" in text(sheet.body[0])


def test_a_heading_gives_way_to_what_stands_at_its_right() -> None:
    """How old an answer is must be seen."""
    assert two_sides("left", "right", 20).plain == "left           right"
    assert two_sides("a long heading", "right", 12).plain == "a lon… right"
    assert two_sides("left", "a long status", 8).plain == "a long s"
    assert len(two_sides("\u4e16\u754c" * 9, "x", 10).plain) <= 10


def test_every_measure_has_a_key_and_every_key_is_told() -> None:
    """In the help; those that are needed most also in the last line."""
    assert sorted(MEASURE_KEYS.values()) == sorted(MEASURES)
    names = [name for key in KEYS for name in key.names.split(",")]
    assert len(names) == len(set(names))
    told = help_lines(80)
    assert len(told) <= 22, "all are seen on a screen of 24 lines"
    assert max(map(len, told)) <= 80
    assert [key.help for key in KEYS if key.help not in "\n".join(told)] == []
    assert len(help_lines(20)) == len(KEYS)
    assert key_line(80) == "? help  q quit  / filter  Enter open  Esc back  g growth  c close-wait  s stuck"
    assert key_line(40) == "? help  q quit  / filter  Enter open"
    assert "Space pause" in key_line(300)


def test_windows_go_from_a_minute_to_a_week() -> None:
    """From any that was given."""
    assert [next_window(seconds, 1) for seconds in (60.0, 61.0, 3_600.0)] == [300.0, 300.0, 10_800.0]
    assert [next_window(seconds, -1) for seconds in (60.0, 61.0, 3_600.0, 1.0)] == [60.0, 60.0, 1_800.0, 1.0]
    longest = float(MAX_WINDOW_SECONDS)
    assert next_window(longest, 1) == longest
