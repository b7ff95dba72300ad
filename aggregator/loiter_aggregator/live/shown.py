"""A page as it is shown: the question, the last answer to it, how old that is, and what went wrong since."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from loiter_aggregator.live.pages import Content, Page
from loiter_aggregator.live.viewport import Viewport

_SIGNS: Final = "|/-\\"


@dataclass
class Shown:
    """A page, its last answer, and which part of that is in sight. Times are of the monotonic clock, in seconds."""

    page: Page
    answered: Page | None = None
    content: Content | None = None
    answered_at: float = 0.0
    stamp: str = ""
    trouble: str = ""
    viewport: Viewport = field(default_factory=Viewport)

    def take(self, page: Page, content: Content, now: float) -> None:
        """Takes an answer."""
        self.answered, self.content, self.answered_at, self.trouble = page, content, now, ""
        self.stamp = datetime.now(UTC).strftime("%H:%M:%S UTC")

    def heading(self) -> str:
        """What is shown: of the answer, which may not be that to the latest question yet."""
        return (self.answered or self.page).heading()

    def status(self, now: float, asked_at: float | None, paused: bool, rhythm: str) -> str:
        """How old the answer is, and whether another is waited for. `rhythm` is how often it is asked."""
        age = f"{now - self.answered_at:.0f} s old"
        if asked_at is not None and now - asked_at >= 1:
            waits = f"{_SIGNS[int(2 * now) % len(_SIGNS)]} asking, {now - asked_at:.0f} s"
            return waits if self.content is None else f"{age}  {waits}"
        if self.content is None:
            return "no answer yet"
        if self.trouble:
            return f"STALE, {age}"
        return f"paused, {age}" if paused else f"{self.stamp}{rhythm}"
