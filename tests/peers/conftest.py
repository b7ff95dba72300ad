"""The other ends of what the aggregator talks to: browsers, mail servers, Prometheus, Alertmanager.

Where one is not installed, its tests are skipped, but fail where LOITER_PEERS=required.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator

import pytest

from support.watched_fleet import WatchedFleet, watched_fleet


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leaves this folder out where nothing was named on the command line: `make peers` names it."""
    return True if config.args_source is pytest.Config.ArgsSource.TESTPATHS else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Has a test fail that was skipped, for whatever reason, where the other ends are required."""
    report = yield
    if report.skipped and os.environ.get("LOITER_PEERS") == "required":
        report.outcome = "failed"
        report.longrepr = f"skipped, which LOITER_PEERS=required forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedFleet]:
    """A fleet with something to see, for the tests that only look."""
    with watched_fleet(tmp_path_factory.mktemp("fleet")) as one:
        yield one


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    return _installed("chromium", "chromium")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """Prometheus's path; promtool comes with it."""
    return _installed("prometheus", "prometheus")


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of what checks the files of Prometheus."""
    return _installed("promtool", "prometheus")


@pytest.fixture(scope="session")
def alertmanager() -> str:
    """Alertmanager's path; amtool comes with it."""
    return _installed("prometheus-alertmanager", "prometheus-alertmanager")


def _installed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed; on Debian: apt-get install {package}")
    return found
