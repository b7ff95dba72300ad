"""Names for owners of TIME_WAIT sockets, users of ports, and namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.identity import Identities
from loiter_agent.names import Names
from loiter_agent.procfs import Procfs
from loiter_agent.sample import Namespace, OwnerRow, OwnerSource, PortBudget, ProcessKey, TimeWaitGroup, TimeWaitOwner
from support.proctree_fake import ProcTree

# No process of this machine has such pids: what psutil could say of a real one stays out of it.
FIRST, SECOND, OTHER = (ProcessKey(5_000_000 + number, 7) for number in range(3))


class Host:
    """Processes with names, as a scan sees them."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        procfs = Procfs(self.tree.root)
        self.scanner = ProcessScanner(procfs)
        self.names = Names(Identities(procfs))
        for key, name in ((FIRST, "worker"), (SECOND, "worker"), (OTHER, "curl")):
            self.tree.add(key.pid, key.start_ticks, name)

    def tick(self) -> ProcessScan:
        scan = self.scanner.collect()
        self.names.begin(scan)
        return scan

    def owners(self, *owners: TimeWaitOwner) -> list[OwnerRow]:
        return [row.owner for row in self.names.time_wait([group(owner, 1) for owner in owners])]


def group(
    owner: TimeWaitOwner, count: int, destination: str | None = "10.0.0.2:443", namespace: int = 1
) -> TimeWaitGroup:
    return TimeWaitGroup(namespace, destination, None, count, count / 60, owner)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    one = Host(tmp_path)
    one.tick()
    return one


def test_an_owner_is_named_with_how_it_was_found(host: Host) -> None:
    """Its pid and start time are what tells it from others of its name."""
    (row,) = host.owners(TimeWaitOwner(OTHER, "exact"))
    assert (row.pid, row.name, row.app, row.how) == (OTHER.pid, "curl", "curl", "exact")
    assert row.start_time is not None


def test_nobody_has_no_name(host: Host) -> None:
    """All but how is None."""
    assert host.owners(TimeWaitOwner(None, "unattributed")) == [OwnerRow(None, None, None, None, "unattributed")]
    assert host.owners(TimeWaitOwner(None, "exact")) == [OwnerRow(None, None, None, None, "exact")], "what is folded"


@pytest.mark.parametrize("how", ["cgroup", "listener"])
def test_several_of_one_application_are_that_application(host: Host, how: OwnerSource) -> None:
    """Of several applications, it is none; of those that live, the others are not looked at."""
    assert host.owners(TimeWaitOwner(None, how, (FIRST, SECOND))) == [OwnerRow(None, None, None, "worker", how)]
    nobody = OwnerRow(None, None, None, None, "unattributed")
    assert host.owners(TimeWaitOwner(None, how, (FIRST, OTHER))) == [nobody]
    host.tree.remove(OTHER.pid)
    host.tick()
    assert host.owners(TimeWaitOwner(None, how, (FIRST, OTHER)))[0].app == "worker"
    host.tree.remove(FIRST.pid)
    host.tick()
    assert host.owners(TimeWaitOwner(None, how, (FIRST, OTHER))) == [nobody]


def test_an_owner_that_has_ended_keeps_its_name(host: Host) -> None:
    """Its sockets outlive it by a minute; whoever has its pid by then is somebody else."""
    (before,) = host.owners(TimeWaitOwner(OTHER, "exact"))
    host.tree.remove(OTHER.pid)
    host.tree.add(OTHER.pid, OTHER.start_ticks + 1, "impostor")
    for _ in range(3):
        host.tick()
        assert host.owners(TimeWaitOwner(OTHER, "exact")) == [before]
    host.owners()
    assert host.owners(TimeWaitOwner(OTHER, "exact"))[0].how == "unattributed", "it was forgotten with its sockets"


def test_groups_with_one_owner_are_one_row(host: Host) -> None:
    """As those of two cgroups of one application: sums stay what they were, the largest comes first."""
    rows = host.names.time_wait(
        [
            group(TimeWaitOwner(None, "cgroup", (FIRST, SECOND)), 30),
            group(TimeWaitOwner(None, "cgroup", (SECOND, FIRST)), 60),
            group(TimeWaitOwner(OTHER, "exact"), 70),
            group(TimeWaitOwner(OTHER, "exact"), 20, "10.0.0.3:443"),
            group(TimeWaitOwner(OTHER, "exact"), 10, namespace=2),
            group(TimeWaitOwner(None, "unattributed"), 5, None, namespace=0),
        ]
    )
    assert [(row.namespace, row.destination, row.count, row.closes_per_second) for row in rows] == [
        ("1", "10.0.0.2:443", 90, 1.5),
        ("1", "10.0.0.2:443", 70, 1.167),
        ("1", "10.0.0.3:443", 20, 0.333),
        ("2", "10.0.0.2:443", 10, 0.167),
        ("", None, 5, 0.083),
    ]


def test_the_user_of_ports_is_named_while_it_lives(host: Host) -> None:
    """A pid without a start time would be taken for whoever has it next."""
    budget = PortBudget(1, "10.0.0.1", "10.0.0.2:443", 9, 10, 8, 0, 1.0, 2.0, 3.0, OTHER)
    assert host.names.port_row(budget).pid == OTHER.pid
    assert host.names.port_row(budget).namespace == "1"
    host.tree.remove(OTHER.pid)
    host.tick()
    assert host.names.port_row(budget).pid is None


def test_a_namespace_without_a_name_is_called_by_its_oldest_process(host: Host) -> None:
    """One that has a name keeps it; one without processes has none."""
    assert host.names.namespace(Namespace(1, "", "sock_diag", OTHER)).name == "curl"
    assert host.names.namespace(Namespace(1, "blue", "sock_diag", OTHER)).name == "blue"
    assert host.names.namespace(Namespace(1, "", "sock_diag")).name == ""
    host.tree.remove(OTHER.pid)
    host.tick()
    assert host.names.namespace(Namespace(1, "", "sock_diag", OTHER)).name == ""
