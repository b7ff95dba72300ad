"""Which addresses stay on this machine."""

from __future__ import annotations

import pytest

from loiter.addresses import is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:7433", "127.8.9.10:1", "localhost:7433", "[::1]:7433"])
def test_loopback_addresses_stay_on_this_machine(address: str) -> None:
    """The whole of 127.0.0.0/8, ::1, and the name that stands for them."""
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:7433", "[2001:db8::1]:7433", "0.0.0.0:7433", "[::]:7433", "localhost.example:1", "127.0.0.1.evil:1"],
)
def test_other_addresses_may_leave_it(address: str) -> None:
    """A name is not looked up, and the address of all interfaces is no loopback."""
    assert not is_loopback(address)
