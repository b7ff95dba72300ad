"""Where the TIME_WAIT sockets of simulated hosts come from, and the ephemeral ports that they take up. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from loiter.v1 import sample_pb2
from loiter_aggregator.simulation.draws import draw
from loiter_aggregator.simulation.figures import Drawn
from loiter_aggregator.simulation.hosts import SimulatedHost
from loiter_aggregator.simulation.plan import Kind

NAMESPACE: Final = "4026531840"
TIME_WAIT_SECONDS: Final = 60.0
# net.ipv4.ip_local_port_range is 32768 to 60999 by default.
_PORTS: Final = 28_232

_ADDRESS: Final = 0x41


class Closing(NamedTuple):
    """Connections that end in TIME_WAIT: what share of all, where they go to or come in, and whose they are."""

    share: float
    destination: str = ""
    listener: str = ""
    slot: int | None = None


def closings(host: SimulatedHost) -> tuple[Closing, ...]:
    """The groups of TIME_WAIT sockets of a host. The last stands for the rest."""
    first = f"{address(host, 0)}:443"
    if host.kind is Kind.BUSY:
        return (
            Closing(0.66, destination=first, slot=0),
            Closing(0.14, destination=f"{address(host, 1)}:5432", slot=0),
            Closing(0.12, listener="0.0.0.0:8080", slot=len(host.slots) - 1),
            Closing(0.05, destination=f"{address(host, 2)}:6379", slot=0),
            Closing(0.03),
        )
    return (Closing(0.7, listener="0.0.0.0:8080", slot=0), Closing(0.2, destination=first, slot=0), Closing(0.1))


def address(host: SimulatedHost, number: int) -> str:
    """An address in the network of the host."""
    drawn = draw(host.key, _ADDRESS, number)
    return f"10.{20 + drawn % 8}.{drawn // 8 % 256}.{1 + drawn // 2_048 % 254}"


def add_closing(
    sample: sample_pb2.Sample, host: SimulatedHost, closing: Closing, owner: sample_pb2.TimeWaitOwner | None
) -> None:
    """Adds a group to a sample, without its figures."""
    sample.time_wait.add(
        namespace=NAMESPACE,
        destination=closing.destination,
        listener=closing.listener,
        owner=owner or sample_pb2.TimeWaitOwner(source=sample_pb2.OWNER_SOURCE_UNATTRIBUTED),
    )
    if closing.destination and owner is not None:
        sample.ports.add(
            namespace=NAMESPACE,
            source=address(host, -1),
            destination=closing.destination,
            available=_PORTS,
            reusable=0,
            exhausting_connects_per_second=_PORTS / TIME_WAIT_SECONDS,
            pid=owner.pid,
        )


def set_closings(
    sample: sample_pb2.Sample, all_closings: tuple[Closing, ...], total: int, drawn: Drawn
) -> tuple[int, float]:
    """Sets the figures of a sample's groups and budgets, of so many TIME_WAIT sockets.

    Returns how many are of the first process, and what share it has of the fullest budget.
    """
    left, ports, owned, fullest = total, 0, 0, 0.0
    for group, closing in zip(sample.time_wait, all_closings, strict=True):
        wanted = total * closing.share * (0.95 + drawn.ports / 10_000)
        count = left if closing.slot is None else min(left, int(wanted))
        left -= count
        group.count, group.closes_per_second = count, count / TIME_WAIT_SECONDS
        if closing.slot == 0:
            owned += count
        if closing.destination:
            fullest = max(fullest, _set_budget(sample.ports[ports], count, drawn))
            ports += 1
    sample.tcp_states.time_wait = total
    return owned, fullest


def _set_budget(budget: sample_pb2.PortBudget, count: int, drawn: Drawn) -> float:
    used = min(_PORTS, count + 1 + drawn.elsewhere)
    budget.used, budget.time_wait = used, min(used, count)
    connects = count / TIME_WAIT_SECONDS * (0.9 + 0.2 * drawn.ports / 1_000)
    budget.connects_per_second = connects
    excess = connects - budget.exhausting_connects_per_second
    if excess > 0:
        budget.exhausted_in_seconds = (_PORTS - used) / excess
    return used / _PORTS
