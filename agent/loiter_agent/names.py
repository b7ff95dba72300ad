"""Puts names to what the socket collector found: owners, users of ports, namespaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

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
# A cgroup, or a port, with more processes than this is not one application's.
_MOST_MEMBERS = 64


class Names:
    """Names processes as the last scan saw them, and those that have ended as long as their TIME_WAIT sockets last."""

    def __init__(self, identities: Identities) -> None:
        """Takes what looks processes up."""
        self._identities = identities
        self._scan = ProcessScan({})
        self._owners: dict[ProcessKey, ProcessIdentity] = {}

    def begin(self, scan: ProcessScan) -> None:
        """Starts a tick: these are the processes that live. That none do means that they were not looked for."""
        self._scan = scan
        if scan.processes:
            self._identities.forget_all_but(scan.processes.keys())

    def of(self, key: ProcessKey) -> ProcessIdentity:
        """Identifies a process that lives. Not to be asked of any other: its pid may be another's by now."""
        return self._identities.of(key, self._scan.processes[key].comm)

    def time_wait(self, groups: Collection[TimeWaitGroup]) -> tuple[TimeWaitRow, ...]:
        """Names the owners of TIME_WAIT sockets. Groups that turn out to have one owner become one row."""
        self._owners = {
            key: identity
            for key in {group.owner.key for group in groups}
            if key is not None and (identity := self._living_or_known(key)) is not None
        }
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
            pid=budget.owner.pid if budget.owner and budget.owner in self._scan.processes else None,
        )

    def namespace(self, namespace: Namespace) -> Namespace:
        """Names a namespace that has no name of its own by what its oldest process belongs to."""
        member = namespace.member
        if namespace.name or member is None or member not in self._scan.processes:
            return namespace
        return replace(namespace, name=self.of(member).app)

    def _living_or_known(self, key: ProcessKey) -> ProcessIdentity | None:
        return self.of(key) if key in self._scan.processes else self._owners.get(key)

    def _owner(self, owner: TimeWaitOwner) -> OwnerRow:
        if owner.key is not None:
            identity = self._owners.get(owner.key)
            if identity is None:
                return _UNATTRIBUTED
            return OwnerRow(owner.key.pid, identity.start_time, identity.name, identity.app, owner.how)
        if owner.members:
            living = [member for member in owner.members if member in self._scan.processes]
            apps = {self.of(member).app for member in living} if len(living) <= _MOST_MEMBERS else set()
            return OwnerRow(None, None, None, apps.pop(), owner.how) if len(apps) == 1 else _UNATTRIBUTED
        return replace(_UNATTRIBUTED, how=owner.how)
