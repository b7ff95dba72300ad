"""Parts that the program can do without: they are started again, and do not end it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from loiter_aggregator import server
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.file import load_alerts
from loiter_aggregator.background import keep_running
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.metrics.metrics import Metrics
from loiter_aggregator.reports.file import load_reports
from loiter_aggregator.reports.reporting import Reporting


class Part:
    """A part that ends as it is told, each run after so many seconds, and then the test with it."""

    def __init__(self, *ends: tuple[float, Exception | None]) -> None:
        """Takes after how long its runs end, and by what; by nothing where it just returns."""
        self.ends = list(ends)
        self.now = 0.0
        self.pauses: list[float] = []

    async def run(self) -> None:
        """Runs once."""
        if not self.ends:
            raise asyncio.CancelledError
        seconds, error = self.ends.pop(0)
        self.now += seconds
        if error is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        """Notes the pause."""
        self.pauses.append(seconds)


def _keep(part: Part) -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep_running("the part", part.run, part.sleep, lambda: part.now))


def test_a_part_that_ends_is_started_again_later_and_later() -> None:
    """Up to a minute; as soon as the first time when it had run for long. It ends when it is cancelled."""
    short, long = (1.0, ValueError("no")), (700.0, ValueError("no"))
    part = Part(*[short] * 8, long, short)
    _keep(part)
    assert part.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]


def test_a_kind_of_error_is_logged_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    """In a line the other times. That it just returned is said, too."""
    _keep(Part((0, ValueError("one")), (0, ValueError("two")), (0, KeyError("three")), (0, None)))
    assert caplog.text.count("Traceback") == 2
    assert "the part ended by a mistake: ValueError: two" in caplog.text
    assert "the part ended, though nobody had asked for it" in caplog.text


def test_the_aggregator_goes_on_when_a_part_of_it_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reports, alerts, metrics: what comes in is stored all the same, until it is told to stop."""
    broken: list[str] = []

    async def run(self: object) -> None:
        broken.append(type(self).__name__)
        if len(broken) == len(parts):
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        raise ValueError("a fault of the test's")

    parts = (Reporting, Alerting, Metrics)
    for part in parts:
        monkeypatch.setattr(part, "run", run)
    settings = AggregatorSettings(listen="127.0.0.1:0", http=None, data_dir=tmp_path)
    with caplog.at_level("INFO"):
        asyncio.run(server.serve(settings, load_alerts(None), load_reports(None)))
    assert sorted(broken) == ["Alerting", "Metrics", "Reporting"]
    for name in ("sends reports", "evaluates alerts", "gathers metrics"):
        assert f"what {name} ended by a mistake: ValueError: a fault of the test's" in caplog.text
    assert "stopped: 0 reports stored" in caplog.text
