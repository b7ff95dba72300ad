"""A wall clock that the test sets for one program, by libfaketime: the clocks that never step stay the kernel's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_LIBRARY = "lib/*/faketime/libfaketimeMT.so.1"


def library() -> Path | None:
    """Finds the library where distributions keep it; None where it is not installed."""
    return next(Path("/usr").glob(_LIBRARY), None)


class FakeClock:
    """How far the wall clock of a program is from the machine's."""

    def __init__(self, folder: Path, hours: float) -> None:
        """Starts at so many hours from the machine's clock. Raises OSError without the library."""
        found = library()
        if found is None:
            raise FileNotFoundError(f"/usr/{_LIBRARY}: install the package faketime")
        self._library = found
        self._file = folder / "clock"
        self.set(hours)

    def set(self, hours: float) -> None:
        """Sets the clock to so many hours from the machine's, at once."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{round(hours * 3_600):+d}")
        fresh.rename(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program is to be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
