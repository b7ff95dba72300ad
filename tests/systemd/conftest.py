"""Hosts for tests. On a machine that can not run them the tests are skipped, but fail where LOITER_LAB=required.

What such a machine takes is in `lab.machine`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence

import pytest

from systemd.debs import Debs
from systemd.debs import debs as find_debs
from systemd.lab import Fleet
from systemd.lab.machine import why_not

# Of the whole machine, so booting takes its time; the first test may have to wait for the template too.
_TEST_SECONDS = 900


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leaves this folder out where nothing was named on the command line: `make test` is quick, `make lab` names it."""
    return True if config.args_source is pytest.Config.ArgsSource.TESTPATHS else None


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Gives each test of this folder more time than others have."""
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Has a test fail that was skipped, for whatever reason, where the lab is required."""
    report = yield
    if report.skipped and os.environ.get("LOITER_LAB") == "required":
        report.outcome = "failed"
        report.longrepr = f"skipped, which LOITER_LAB=required forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def lab() -> None:
    """Skips what asks for it where this machine can not run the lab."""
    if (reason := why_not()) is not None:
        pytest.skip(f"this machine can not run the lab: {reason}")


@pytest.fixture(scope="module")
def fleet(lab: None) -> Iterator[Fleet]:  # noqa: ARG001
    """A fleet that boots hosts by name, for the tests of one file; taken down after the last of them."""
    with Fleet() as one:
        yield one


@pytest.fixture(scope="session")
def debs(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Debs:  # noqa: ARG001
    """The packages of the agent and of the aggregator: built once, or those in the folder that LOITER_DEBS names."""
    return find_debs(tmp_path_factory.mktemp("debs"))
