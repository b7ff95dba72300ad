"""The keys of the live view, and what they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loiter_aggregator.rankings import KINDS


@dataclass(frozen=True, slots=True)
class Key:
    """A key, as textual calls it, and as people do; what it does; in a word for the last line, and in a sentence.

    Without a word it is told in the help alone.
    """

    names: str
    shown: str
    action: str
    word: str
    help: str


MEASURE_KEYS: Final = {
    "g": "close-wait-growth",
    "c": "close-wait",
    "s": "stuck",
    "t": "time-wait",
    "T": "time-wait-max",
    "d": "fd-share",
    "f": "fd-eta",
    "p": "ports",
}
_WORDS: Final = {"g": "growth", "c": "close-wait", "s": "stuck", "t": "time-wait", "f": "fd-eta", "p": "ports"}

# Those that are needed first stand first: what there is no room for is in the help.
KEYS: Final = (
    Key("question_mark", "?", "help", "help", "this help"),
    Key("q,ctrl+c", "q", "leave", "quit", "leave; Ctrl-C as well"),
    Key("slash", "/", "filter", "filter", "only rows with a text in their names; Enter keeps it, Esc drops it"),
    Key("enter", "Enter", "open", "open", "look into the marked host, process, app or group"),
    Key("escape,backspace", "Esc", "return", "back", "back, with the row that was marked; Backspace as well"),
    *(Key(key, key, f"by('{measure}')", _WORDS.get(key, ""), f"by {measure}") for key, measure in MEASURE_KEYS.items()),
    *(Key(str(n), str(n), f"rank('{what}')", what, f"the worst {what}") for n, what in enumerate(KINDS, start=1)),
    Key("plus,equals_sign", "+", "window(1)", "", "a longer window"),
    Key("minus", "-", "window(-1)", "", "a shorter window"),
    Key("space", "Space", "pause", "pause", "pause, and go on"),
    Key("ctrl+z", "Ctrl-Z", "suspend_process", "", "back to the shell; fg goes on"),
    Key("r", "r", "refresh", "", "ask again now"),
    Key("up,k", "↑ k", "move(-1)", "", "the row above"),
    Key("down,j", "↓ j", "move(1)", "", "the row below"),
    Key("pageup,ctrl+b", "PgUp", "page(-1)", "", "a screen up"),
    Key("pagedown,ctrl+f", "PgDn", "page(1)", "", "a screen down"),
    Key("home", "Home", "home", "", "to the top; the first row stays marked, whoever that is"),
    Key("end,G", "End", "end", "", "to the end"),
    Key("left,h", "← h", "sideways(-1)", "", "what is to the left"),
    Key("right,l", "→ l", "sideways(1)", "", "what is to the right, where a table is wider than the screen"),
)


def key_line(width: int) -> str:
    """The keys with a word for each, as many as fit."""
    line = ""
    for key in KEYS:
        if not key.word:
            continue
        longer = f"{line}  {key.shown} {key.word}" if line else f"{key.shown} {key.word}"
        if len(longer) > width:
            break
        line = longer
    return line


def help_lines(width: int) -> list[str]:
    """All keys; two short ones share a line, so that all are seen at once."""
    half = width // 2
    lines: list[str] = []
    alone = True
    for key in KEYS:
        text = f"{key.shown:<7} {key.help}"
        if lines and alone and max(len(lines[-1]), len(text)) < half:
            lines[-1] = f"{lines[-1]:<{half}}{text}"
            alone = False
        else:
            lines.append(text)
            alone = True
    return lines
