"""The widget that shows an answer: lines of it, of which one may be marked."""

from __future__ import annotations

from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from loiter_aggregator.live.layout import Line, Sheet, lay_out
from loiter_aggregator.live.pages import Content
from loiter_aggregator.live.viewport import Viewport

# Seen without colours, too.
_MARK = Style(reverse=True, bold=True)


class SheetView(Widget, can_focus=True):
    """Shows an answer, laid out for the size that it has."""

    def __init__(self, wide: bool) -> None:
        """Is empty at first."""
        super().__init__()
        self._wide = wide
        self._content = Content()
        self._viewport = Viewport()
        self._plain = Viewport()
        self._sheet = Sheet()
        self._laid_out: tuple[Content, int] | None = None

    def show(self, content: Content, viewport: Viewport | None) -> None:
        """Shows an answer through a viewport; without one, from its top."""
        if viewport is None:
            viewport = self._plain
        else:
            self._plain = Viewport()
        width = max(1, self.size.width)
        if self._laid_out is None or self._laid_out[0] is not content or self._laid_out[1] != width:
            self._sheet = lay_out(content, width, self._wide)
            self._laid_out = content, width
        self._content, self._viewport = content, viewport
        self._fit()

    def on_resize(self, _event: events.Resize) -> None:
        """Lays out anew."""
        self.show(self._content, self._viewport)

    def move(self, lines: int) -> None:
        """Marks another row."""
        self._change(lambda: self._viewport.move(lines))

    def page(self, pages: int) -> None:
        """Goes on by a screen."""
        self._change(lambda: self._viewport.page(pages))

    def home(self) -> None:
        """To the top."""
        self._change(self._viewport.home)

    def end(self) -> None:
        """To the end."""
        self._change(self._viewport.end)

    def sideways(self, way: int) -> None:
        """Scrolls to the right or left."""
        self._change(lambda: self._viewport.sideways(way))

    def _change(self, change: Callable[[], None]) -> None:
        change()
        self.refresh()

    def _fit(self) -> None:
        height = self.size.height - len(self._sheet.head)
        self._viewport.show(self._sheet.extent, self.size.width, height)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """A line of the screen."""
        head, body = self._sheet.head, self._sheet.body
        if y < len(head):
            return self._strip(head[y], False)
        at = y - len(head) + self._viewport.top
        if at >= len(body):
            return Strip.blank(self.size.width)
        return self._strip(body[at], at == self._viewport.marked())

    def _strip(self, line: Line, marked: bool) -> Strip:
        left, width = self._viewport.left, self.size.width
        strip = Strip(Segment(one.text, one.style) for one in line).crop_extend(left, left + width, None)
        return strip.apply_style(_MARK) if marked else strip

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - textual's
        """As high as there is room."""
        return container.height
