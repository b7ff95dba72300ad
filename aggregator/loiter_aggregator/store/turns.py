"""Who may write to the store, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One writes at a time. What is made of rows that are there already takes longer, and need not stop those to come.

    `job` is for whoever moves or deletes rows that are stored. There is one such job at a time; who wants a turn, too,
    takes the job first.
    """

    def __init__(self) -> None:
        """Nobody writes yet."""
        self._writing = threading.Lock()
        self._next = threading.Lock()
        self._old_rows = threading.Lock()
        self._old_until = 0
        self.job = threading.RLock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Lets the block alone write. Who waits is the next: a lock by itself may go to whoever just gave it back."""
        with self._next:
            self._writing.acquire()
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def turn_for_rows(self, first: int | None) -> Iterator[None]:
        """The same for rows of which the first was taken at a time: those that are being rolled are waited for."""
        with self.turn():
            if first is None or first >= self._old_until:
                yield
                return
            with self._old_rows:
                yield

    @contextmanager
    def turn_for_all(self) -> Iterator[None]:
        """The same for a change of any rows: rolling is waited for."""
        with self.turn(), self._old_rows:
            yield

    @contextmanager
    def rolling(self, until: int) -> Iterator[None]:
        """Has nobody write rows of before a time, in milliseconds, while the block runs; newer ones are written."""
        with self.turn():
            self._old_until = max(self._old_until, until)
            self._old_rows.acquire()
        try:
            yield
        finally:
            self._old_rows.release()
