"""Puts names to what the socket collector found: owners, users of ports, namespaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.identity import Identities, ProcessIdentity
from loiter_agent.sample import (
    Namespace,
    OwnerRow,
    PortBudget,
    PortRow,
    ProcessKey,
    TimeWaitGroup,
    TimeWaitOwner,
    TimeWaitRow,
)

_UNATTRIBUTED = OwnerRow(None, None, None, None, "unattributed")
# A cgroup with more processes than this is not one application's.
_MOST_MEMBERS = 64


@dataclass(frozen=True, slots=True)
class Names:
    """Names processes as one scan saw them."""

    identities: Identities
    scan: ProcessScan

    def of(self, key: ProcessKey) -> ProcessIdentity:
        """Identifies a process."""
        process = self.scan.processes.get(key)
        return self.identities.of(key, process.comm if process else "")

    def time_wait(self, groups: Iterable[TimeWaitGroup]) -> tuple[TimeWaitRow, ...]:
        """Names the owners of TIME_WAIT sockets. Groups that turn out to have one owner become one row."""
        counts: Counter[TimeWaitRow] = Counter()
        rates: Counter[TimeWaitRow] = Counter()
        for group in groups:
            row = TimeWaitRow(
                namespace=str(group.namespace) if group.namespace else "",
                destination=group.destination,
                listener=group.listener,
                count=0,
                closes_per_second=0.0,
                owner=self._owner(group.owner),
            )
            counts[row] += group.count
            rates[row] += group.closes_per_second  # type: ignore[assignment]  # a Counter adds up any number
        return tuple(
            replace(row, count=count, closes_per_second=round(rates[row], 3)) for row, count in counts.most_common()
        )

    def port_row(self, budget: PortBudget) -> PortRow:
        """Writes a budget of ephemeral ports as it is reported."""
        return PortRow(
            namespace=str(budget.namespace),
            source=budget.source,
            destination=budget.destination,
            used=budget.used,
            available=budget.available,
            time_wait=budget.time_wait,
            reusable=budget.reusable,
            connects_per_second=budget.connects_per_second,
            exhausting_connects_per_second=budget.exhausting_connects_per_second,
            exhausted_in_seconds=budget.exhausted_in_seconds,
            pid=budget.owner.pid if budget.owner else None,
        )

    def namespace(self, namespace: Namespace) -> Namespace:
        """Names a namespace that has no name of its own by what its oldest process belongs to."""
        if namespace.name or namespace.member is None:
            return namespace
        return replace(namespace, name=self.of(namespace.member).app)

    def _owner(self, owner: TimeWaitOwner) -> OwnerRow:
        if owner.key is not None:
            identity = self.of(owner.key)
            return OwnerRow(owner.key.pid, identity.start_time, identity.name, identity.app, owner.how)
        if owner.how == "cgroup" and owner.members:
            apps = {self.of(member).app for member in owner.members} if len(owner.members) <= _MOST_MEMBERS else set()
            if len(apps) == 1:
                return OwnerRow(None, None, None, apps.pop(), "cgroup")
            return _UNATTRIBUTED
        return replace(_UNATTRIBUTED, how=owner.how)
