"""The terminal that the live view is on, and how it is left: by a key, a signal, or because it went away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from codecs import getincrementaldecoder
from contextlib import suppress
from selectors import EVENT_READ, SelectSelector
from typing import Any, Final, TextIO

from rich.text import Text
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

from loiter.text import printable
from loiter_aggregator.client import FleetClient
from loiter_aggregator.live.app import LiveView
from loiter_aggregator.live.pages import Page

# How often it is seen that no more keys are wanted.
_LOOK_SECONDS: Final = 0.1
_READ_BYTES: Final = 4_096
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watch(client: FleetClient, page: Page, wide: bool) -> None:
    """Shows a page, and what it leads to, until it is left; the terminal is then as it was.

    Raises SystemExit where the view itself failed, which is then said.
    """
    view = LiveView(client, page, wide, driver=_Terminal)
    asyncio.run(_run(view))
    if view.return_code:
        print("loiter: the live view ended by a mistake in the program, which is above", file=sys.stderr)
        sys.exit(view.return_code)


async def _run(view: LiveView) -> None:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:  # also where a shell had them ignored, as for a job in the background
        loop.add_signal_handler(number, view.leave)
    # The mouse stays the terminal's own, which marks and copies text with it.
    await view.run_async(mouse=False)


class _Output:
    """Standard output, which may go away unheard: there is nobody left to tell."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


class _Terminal(LinuxDriver):
    """Writes to standard output, as the table does, and not to standard error; ends when the terminal went away."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        assert sys.__stdout__ is not None, "it is a terminal"
        self._output = _Output(sys.__stdout__)
        self._file = self._output  # type: ignore[assignment] # all that its writer uses

    def _get_terminal_size(self) -> tuple[int, int]:
        # COLUMNS and LINES, if they are set, are of when they were set.
        try:
            return os.get_terminal_size(self._output.fileno())
        except OSError:
            return super()._get_terminal_size()

    def run_input_thread(self) -> None:
        """Reads keys. Bytes that are no UTF-8, as a terminal of another encoding sends, are a key that does nothing."""
        try:
            self._read_keys()
        except OSError:
            self._app.call_later(self._app.exit)
        except Exception as error:
            said = f"the keyboard can not be read: {type(error).__name__}: {error}"
            self._app.call_later(self._app.exit, None, 1, Text(printable(said)))

    def _read_keys(self) -> None:
        """As its base does, which gives up at the first byte that is no UTF-8. Raises OSError at the terminal's end."""
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")("replace").decode
        with SelectSelector() as selector:
            selector.register(self.fileno, EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(_LOOK_SECONDS):
                    if not (typed := os.read(self.fileno, _READ_BYTES)):
                        raise OSError("the terminal went away")
                    # Nothing, where a character is not whole yet; the parser takes that for the end.
                    for event in parser.feed(text) if (text := decode(typed)) else ():
                        self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)
