"""A real terminal, which tmux draws: keys go in, and what is on the screen comes out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.programs import BIN, CLEAN_ENVIRONMENT, wait_until

# As short as a shell's prompt can be that is found again.
PROMPT: Final = "ready>"
_SHELL: Final = ("sh", "-i")


class Terminal:
    """A terminal with a shell, of a server of tmux that is its own."""

    def __init__(self, tmux: str, folder: Path) -> None:
        self._command = [tmux, "-S", str(folder / "tmux"), "-f", "/dev/null"]

    def tmux(self, *words: str) -> str:
        """Runs a command of tmux."""
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, check=True, timeout=20)
        return done.stdout

    def type(self, line: str) -> None:
        """Types a line."""
        self.tmux("send-keys", "-l", line)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Presses keys, by tmux's names."""
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        """What is on the screen."""
        return self.tmux("capture-pane", "-p")

    def painted(self) -> str:
        """The same with the sequences for colours and the like."""
        return self.tmux("capture-pane", "-p", "-e")

    def resize(self, columns: int, lines: int) -> None:
        """Makes it another size."""
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def is_full_screen(self) -> bool:
        """Whether a program has taken the whole screen."""
        return self.tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def shows_cursor(self) -> bool:
        """Whether the cursor is seen."""
        return self.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"

    def shows(self, *texts: str, seconds: float = 15) -> str:
        """Waits until all of these are on the screen, and returns it."""

        def look() -> str:
            screen = self.screen()
            return screen if all(text in screen for text in texts) else ""

        return self._waited(look, seconds, f"{texts} on the screen")

    def _waited(self, look: Callable[[], str], seconds: float, what: str) -> str:
        try:
            return wait_until(look, seconds, what)
        except AssertionError as error:
            error.add_note(self.screen())
            raise


@contextmanager
def terminal(
    folder: Path, columns: int = 80, lines: int = 24, environment: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Opens a terminal for as long as the block lasts. What runs in it then is hung up on."""
    tmux = shutil.which("tmux")
    assert tmux is not None, "tmux is there"
    one = Terminal(tmux, folder)
    path = f"{BIN}:{CLEAN_ENVIRONMENT['PATH']}"
    # The size that a shell had once is not that of this terminal.
    variables = {
        "PS1": PROMPT,
        "COLUMNS": "70",
        "LINES": "20",
        "PATH": path,
        "LC_ALL": "C.UTF-8",
        "LOITER_HTTP": "off",
        **(environment or {}),
    }
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), *_SHELL]
    one.tmux("new-session", "-d", "-x", str(columns), "-y", str(lines), *command)
    try:
        one.tmux("set-option", "remain-on-exit", "off")
        one.shows(PROMPT)
        yield one
    finally:
        subprocess.run([*one._command, "kill-server"], capture_output=True, check=False, timeout=20)
