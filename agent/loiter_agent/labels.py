"""The labels of this host: from the settings, from a file, and from a command.

Those of the settings (`labels`) beat those of the file, which beat those of the command. The file is read again when
it changes. A command that fails, as one that asks a cloud for its metadata may while the host boots, is asked again
and again until it answers; until then the host reports without its labels, or with those that it printed before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from loiter.settings import SettingsError
from loiter.text import printable
from loiter_agent.config import AgentSettings
from loiter_agent.label_command import CommandError, run_command
from loiter_agent.label_sources import Pairs, check_number, command_words, file_mark, read_file

_log = logging.getLogger(__name__)

FILE_CHECK_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 60.0
_LONGEST_WAIT_SECONDS: Final = 900.0


async def ask_command(words: Sequence[str]) -> dict[str, str]:
    """Runs the command in a thread, and returns the labels that it prints. Cancelled, it kills the command.

    Raises CommandError.
    """
    called_off = threading.Event()
    try:
        return await asyncio.to_thread(run_command, words, called_off=called_off)
    finally:
        called_off.set()


class Labels:
    """Keeps the labels current for as long as the agent runs."""

    def __init__(
        self,
        settings: AgentSettings,
        ask: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] = ask_command,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes the settings, how to ask the command, and how to sleep. Raises SettingsError."""
        self._ask = ask
        self._sleep = sleep
        self._words: tuple[str, ...] = ()
        self._printed: Mapping[str, str] = {}
        self._configured = asyncio.Event()
        self._answered = asyncio.Event()
        self.configure(settings)

    @property
    def current(self) -> Pairs:
        """The labels as far as they are known."""
        return tuple((dict(self._printed) | self._in_file | self._given).items())

    def configure(self, settings: AgentSettings) -> None:
        """Takes other settings: reads the file, and has the command asked anew.

        Raises SettingsError, and then leaves everything as it was.
        """
        words = command_words(settings)
        file = settings.labels_file
        mark = file_mark(file)
        given, in_file = dict(settings.labels), read_file(file)
        check_number(in_file | given)
        if words != self._words:
            self._printed = {}
        self._words, self._file, self._file_mark, self._given, self._in_file = words, file, mark, given, in_file
        self._configured.set()

    async def run(self, changed: Callable[[], None]) -> None:
        """Asks the command, and looks at the file; calls `changed` whenever there are other labels than before."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._heed_command(changed))
            tasks.create_task(self._watch_file(changed))

    async def answered(self) -> None:
        """Returns once the command has answered, or failed, for the first time: at once where there is none."""
        await self._answered.wait()

    async def _heed_command(self, changed: Callable[[], None]) -> None:
        failures = 0
        while True:
            self._configured.clear()
            good = await self._ask_once(failures == 0, changed)
            self._answered.set()
            failures = 0 if good else failures + 1
            if await self._pause(None if good else _wait_after(failures)):
                failures = 0

    async def _ask_once(self, first: bool, changed: Callable[[], None]) -> bool:
        """Whether there is nothing to ask any more. Of failures in a row, only the first is said aloud."""
        words, before = self._words, dict(self.current)
        if not words:
            return True
        try:
            printed = await self._ask(words)
            if words is not self._words:  # configured anew meanwhile
                return True
            check_number(dict(printed) | self._in_file | self._given)
        except (CommandError, SettingsError) as error:
            if words is self._words:
                so = "its labels stay as they were" if self._printed else "this host reports without its labels"
                say = _log.warning if first else _log.debug
                say("labels_command (%s): %s; %s, and it is tried again", printable(words[0]), error, so)
            return False
        self._printed = printed
        if not first:
            _log.info("labels_command (%s) has answered", printable(words[0]))
        if dict(self.current) != before:
            changed()
        return True

    async def _pause(self, seconds: float | None) -> bool:
        """Waits for so long, or for ever. Returns whether it was cut short by other settings."""
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._configured.wait())]
        if seconds is not None:
            waits.append(asyncio.ensure_future(self._sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._configured.is_set()

    async def _watch_file(self, changed: Callable[[], None]) -> None:
        while True:
            await self._sleep(FILE_CHECK_SECONDS)
            file = self._file
            mark = await asyncio.to_thread(file_mark, file) if file is not None else None
            if file is not None and file is self._file and mark != self._file_mark:
                self._file_mark = mark
                await self._read_again(file, changed)

    async def _read_again(self, file: Path, changed: Callable[[], None]) -> None:
        try:
            in_file = await asyncio.to_thread(read_file, file)
            if file is not self._file:  # configured anew meanwhile
                return
            check_number(dict(self._printed) | in_file | self._given)
        except SettingsError as error:
            _log.warning("%s; the labels that it held before stay", error)
            return
        before, self._in_file = dict(self.current), in_file
        if dict(self.current) != before:
            _log.info("labels_file: %s has changed, and was read again", file)
            changed()


def _wait_after(failures: int) -> float:
    return min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 10))
