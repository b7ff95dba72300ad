"""What all tests share: examples are not timed, and which tests have the machine to themselves.

`make test` runs the others side by side, and then these.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

# They run whole programs against a clock, or count the sockets and processes of this machine.
_WHOLE_MACHINE: Final = (
    "e2e",
    "peers",
    "systemd",
    "test_leaklab.py",
    "agent/test_activity.py",
    "agent/test_namespaces.py",
    "agent/test_proc_net_tcp.py",
    "agent/test_sampler.py",
    "agent/test_sock_diag.py",
    "agent/test_socket_listing.py",
    "agent/test_tcp_sock_diag.py",
    "aggregator/test_ingest_hosts.py",
)

# How long an example takes depends on what else this machine does.
settings.register_profile("loiter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loiter")


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Marks them."""
    alone = [Path(__file__).parent / one for one in _WHOLE_MACHINE]
    assert all(one.exists() for one in alone), "one was given another name"
    for item in items:
        if any(item.path.is_relative_to(one) for one in alone):
            item.add_marker(pytest.mark.whole_machine)
