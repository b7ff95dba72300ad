"""A rule: when something of one kind is wrong, for how long, and on which hosts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from loiter.durations import format_duration
from loiter_aggregator.alerts.kinds import Kind
from loiter_aggregator.output import cells

# A line that fits a fifth worse than a rule asks for still keeps an alert up.
_FIT_SLACK = 0.8


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, with everything that a file leaves out filled in. Times are in seconds.

    `threshold` is what breaks it, `clear` what it takes to keep it again, and `min_fit` the least r² of a growth.
    """

    name: str
    kind: Kind
    threshold: float
    clear: float
    min_fit: float
    window: float
    for_: float
    keep_for: float
    severity: str
    labels: tuple[tuple[str, str], ...] = ()
    apps: tuple[str, ...] = ()
    except_apps: tuple[str, ...] = ()
    add_labels: tuple[tuple[str, str], ...] = ()

    def breaks(self, figure: float, fit: float | None) -> bool:
        """Whether a figure is bad enough for an alert to begin."""
        return self._past(figure, self.threshold) and self._fits(fit, self.min_fit)

    def holds(self, figure: float, fit: float | None) -> bool:
        """Whether a figure is bad enough for an alert to go on."""
        return self.reaches(figure) and self._fits(fit, _FIT_SLACK * self.min_fit)

    def reaches(self, figure: float) -> bool:
        """Whether a figure is bad enough for an alert to go on, however well its line fits."""
        return self._past(figure, self.clear)

    def is_about(self, app: str) -> bool:
        """Whether it is about an application."""
        if _matches(app, self.except_apps):
            return False
        return not self.apps or _matches(app, self.apps)

    def badness(self, figure: float) -> float:
        """Makes figures comparable: the worse, the more."""
        return figure if self.kind.worse == "above" else -figure

    @property
    def summary(self) -> str:
        """What it says, for a person."""
        said = self.kind.limit.format(self.kind.write(self.threshold))
        if self.kind.fits:
            said += f", with an r² of {cells.fit(self.min_fit)} or more"
        if self.kind.by is not None:
            said += f", within {format_duration(self.window)}"
        return f"{said}, for {format_duration(self.for_)}" if self.for_ else said

    def _past(self, figure: float, threshold: float) -> bool:
        return figure >= threshold if self.kind.worse == "above" else figure <= threshold

    def _fits(self, fit: float | None, least: float) -> bool:
        return not self.kind.fits or (fit is not None and fit >= least)


def _matches(app: str, patterns: Iterable[str]) -> bool:
    # Of what fnmatch knows, only `*` means more than itself.
    return any(fnmatchcase(app, pattern.replace("[", "[[]").replace("?", "[?]")) for pattern in patterns)
