"""The live view: what stands where on the screen, what keys do, and the round of asking."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import ClassVar, Final

import click
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.driver import Driver
from textual.widgets import Input, Static

from loiter.limits import MAX_WINDOW_SECONDS
from loiter.text import printable
from loiter_aggregator.client import FleetClient
from loiter_aggregator.live.keys import KEYS, help_lines, key_line
from loiter_aggregator.live.layout import two_sides
from loiter_aggregator.live.pages import Content, Page, Ranking
from loiter_aggregator.live.sheet import SheetView
from loiter_aggregator.live.shown import Shown
from loiter_aggregator.threads import in_thread

REFRESH_SECONDS: Final = 2.0
# Between two letters of a filter, so that not each of them is a question.
_TYPING_SECONDS: Final = 0.25
_LOOK_SECONDS: Final = 0.5
# A terminal of so many lines has some to spare for what an answer rests on.
_ROOMY_LINES: Final = 16
_ROOMY_COLUMNS: Final = 60
_WINDOWS: Final = (
    60.0,
    300.0,
    600.0,
    900.0,
    1_800.0,
    3_600.0,
    10_800.0,
    21_600.0,
    43_200.0,
    86_400.0,
    259_200.0,
    604_800.0,
)


class LiveView(App[None]):
    """A stack of pages, of which the last is shown and asked again every two seconds."""

    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    # The terminal's own colours: so it is readable on any background, and with sixteen of them.
    CSS = """
    Screen { background: ansi_default; color: ansi_default; layers: base; }
    Static { height: auto; background: ansi_default; color: ansi_default; }
    #trouble { color: ansi_red; text-style: bold; max-height: 3; }
    #notes { text-style: dim; }
    #keys { text-style: dim; height: 1; }
    #filtering { height: 1; }
    #prompt { width: auto; text-style: bold; }
    #filter { width: 1fr; height: 1; border: none; padding: 0; background: ansi_default; color: ansi_default; }
    SheetView { height: 1fr; background: ansi_default; color: ansi_default; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(name, key.action, key.help, show=False, priority=name == "ctrl+c")
        for key in KEYS
        for name in key.names.split(",")
    ]

    def __init__(
        self,
        client: FleetClient,
        page: Page,
        wide: bool = False,
        refresh: float = REFRESH_SECONDS,
        driver: type[Driver] | None = None,
    ) -> None:
        """Takes whom to ask, what first, and how often."""
        super().__init__(driver, ansi_color=True)
        self._client = client
        self._wide = wide
        self._every = refresh
        self._stack = [Shown(page)]
        self._paused = False
        self._helping = False
        self._asked_at: float | None = None
        self._changed = asyncio.Event()

    @property
    def shown(self) -> Shown:
        """The page that is shown."""
        return self._stack[-1]

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Static(id="heading")
        yield Static(id="trouble")
        yield SheetView(self._wide)
        yield Static(id="notes")
        yield Static(id="keys")
        yield Horizontal(
            Static("filter: ", id="prompt"),
            Input(
                id="filter",
                placeholder="a text in a name; Enter keeps it, Esc drops it",
                max_length=100,
                compact=True,
                select_on_focus=False,
            ),
            id="filtering",
        )

    def on_mount(self) -> None:
        """Begins to ask."""
        self.query_one("#filtering").display = False
        self.query_one(SheetView).focus()
        self.set_interval(_LOOK_SECONDS, self._show_status)
        self.run_worker(self._ask_on(), name="asking")
        self._show()

    def on_resize(self, _event: events.Resize) -> None:
        """Lays out anew."""
        self.call_after_refresh(self._show)

    async def _ask_on(self) -> None:
        """Asks what is shown again and again: at once where that changed, else after a while."""
        while True:
            self._changed.clear()
            shown = self.shown
            if not (self._paused and shown.answered == shown.page):
                await self._ask(shown)
            try:
                await asyncio.wait_for(self._changed.wait(), self._every)
            except TimeoutError:
                continue

    async def _ask(self, shown: Shown) -> None:
        page = shown.page
        self._asked_at = time.monotonic()
        try:
            content = await in_thread(lambda: page.ask(self._client), "asking")
        except click.ClickException as error:
            if page == shown.page and not self._changed.is_set():  # else it was given up for another
                shown.trouble = printable(" ".join(error.format_message().split()))
        else:
            if page == shown.page:
                shown.take(page, content, time.monotonic())
        self._asked_at = None
        if shown is self.shown:
            self._show()

    def _turn_to(self, page: Page) -> None:
        """Asks another question in the place of the one that is shown."""
        if page != self.shown.page:
            self.shown.page = page
            self._ask_now()

    def _ask_now(self) -> None:
        self._changed.set()
        self._client.give_up()
        self._show()

    def _show(self) -> None:
        """Writes all that is shown."""
        if not self.is_running:
            return
        shown, width = self.shown, self.size.width
        content = shown.content or Content()
        if self._helping:
            content = Content(above=(Text("\n".join(help_lines(width))),))
        self.query_one(SheetView).show(content, shown.viewport if not self._helping else None)
        trouble = self.query_one("#trouble", Static)
        trouble.display = bool(shown.trouble)
        trouble.update(Text(shown.trouble))
        notes = self.query_one("#notes", Static)
        said = "" if self._helping else "; ".join(content.notes)
        notes.display = bool(said)
        notes.styles.max_height = 3 if self.size.height >= _ROOMY_LINES else 1
        notes.update(Text(said))
        self.query_one("#keys", Static).update(Text(key_line(width), no_wrap=True))
        self._show_status()

    def _show_status(self) -> None:
        heading = "keys; any of Esc, ?, q leads back" if self._helping else self.shown.heading()
        rhythm = f", every {self._every:g} s" if self.size.width >= _ROOMY_COLUMNS else ""
        status = self.shown.status(time.monotonic(), self._asked_at, self._paused, rhythm)
        self.query_one("#heading", Static).update(two_sides(heading, status, self.size.width))

    def action_leave(self) -> None:
        """Ends, or ends the help."""
        if self._helping:
            self.action_help()
            return
        self.leave()

    def leave(self) -> None:
        """Ends."""
        self._client.give_up()
        self.exit()

    def action_help(self) -> None:
        """Shows the keys, or no longer."""
        self._helping = not self._helping
        self._show()

    def action_by(self, measure: str) -> None:
        """Ranks by another measure."""
        if self.shown.page.ranked:
            self._turn_to(replace(self.shown.page, by=measure))

    def action_rank(self, what: str) -> None:
        """Ranks something else, from the start of the stack."""
        root = self._stack[0].page
        page = self.shown.page
        del self._stack[1:]
        if not isinstance(root, Ranking) or root.what != what:
            self._stack[:] = [Shown(Ranking(root.query, page.by, page.window, page.contains, what=what))]
        self._ask_now()

    def action_window(self, way: int) -> None:
        """Looks back further, or less far."""
        self._turn_to(replace(self.shown.page, window=next_window(self.shown.page.window, way)))

    def action_pause(self) -> None:
        """Asks no more, or again."""
        self._paused = not self._paused
        self._ask_now()

    def action_refresh(self) -> None:
        """Asks now, also while it pauses."""
        self.shown.answered = None if self._paused else self.shown.answered
        self._ask_now()

    def action_filter(self) -> None:
        """Has a text typed."""
        if not self.shown.page.filtered or self._helping:
            return
        field = self.query_one(Input)
        field.value = self.shown.page.contains
        field.cursor_position = len(field.value)
        self.query_one("#keys").display = False
        self.query_one("#filtering").display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters while it is typed."""
        if self._is_filtering():
            text = event.value
            self.set_timer(_TYPING_SECONDS, lambda: self._filter_if_still(text))

    def _filter_if_still(self, text: str) -> None:
        if self._is_filtering() and self.query_one(Input).value == text:
            self._turn_to(replace(self.shown.page, contains=text.strip()))

    def _is_filtering(self) -> bool:
        return self.query_one("#filtering").display

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keeps the filter."""
        self._end_filter(event.value.strip())

    def _end_filter(self, text: str) -> None:
        self.query_one("#filtering").display = False
        self.query_one("#keys").display = True
        self.query_one(SheetView).focus()
        self._turn_to(replace(self.shown.page, contains=text))

    def action_return(self) -> None:
        """One step back: out of the help, the typing, the page, or the filter."""
        if self._helping:
            self.action_help()
        elif self._is_filtering():
            self._end_filter("")
        elif len(self._stack) > 1:
            self._stack.pop()
            self._ask_now()
        elif self.shown.page.contains:
            self._turn_to(replace(self.shown.page, contains=""))

    def action_open(self) -> None:
        """Looks into the marked row."""
        shown = self.shown
        if self._helping or shown.content is None or not shown.content.opens:
            return
        page = shown.content.opens[shown.viewport.index]
        if page is not None:
            self._stack.append(Shown(page))
            self._ask_now()

    def action_move(self, lines: int) -> None:
        """Marks another row."""
        self.query_one(SheetView).move(lines)

    def action_page(self, pages: int) -> None:
        """Goes on by a screen."""
        self.query_one(SheetView).page(pages)

    def action_home(self) -> None:
        """To the top."""
        self.query_one(SheetView).home()

    def action_end(self) -> None:
        """To the end."""
        self.query_one(SheetView).end()

    def action_sideways(self, way: int) -> None:
        """Scrolls to the right or left."""
        self.query_one(SheetView).sideways(way)


def next_window(seconds: float, way: int) -> float:
    """The next longer window, or the next shorter one; the same at either end."""
    if way > 0:
        return next((window for window in _WINDOWS if window > seconds), min(seconds, float(MAX_WINDOW_SECONDS)))
    return next((window for window in reversed(_WINDOWS) if window < seconds), seconds)
