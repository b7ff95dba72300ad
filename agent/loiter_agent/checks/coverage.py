"""How much of the host a sample covers: one is taken."""

from __future__ import annotations

from loiter_agent.checks.finding import Finding, State
from loiter_agent.procfs import Procfs
from loiter_agent.sample import Sample
from loiter_agent.sampler import Bounds, Sampler


def take_sample(procfs: Procfs) -> Sample:
    """Samples once."""
    sampler = Sampler(procfs, Bounds(0, 1), arguments=False, trace_closes=False)
    try:
        return sampler.sample()
    finally:
        sampler.close()


def check_processes(sample: Sample, hides: bool, entitled: bool) -> Finding:
    """Whether all processes can be looked into. `entitled` has the capabilities that it takes."""
    coverage = sample.coverage
    if hides:
        return Finding(
            "processes",
            State.LIMITED,
            "/proc is mounted with hidepid: other users' processes may be left out",
            "CAP_SYS_PTRACE shows them; or mount /proc without hidepid",
        )
    total, unreadable = coverage.processes, coverage.processes_unreadable
    if unreadable:
        return Finding(
            "processes",
            State.LIMITED,
            f"{unreadable} of {total} can not be looked into; what they hold is unknown",
            "a security module, or a user namespace of theirs, keeps them from being read"
            if entitled
            else "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, which the service has",
        )
    return Finding("processes", State.OK, f"all {total} can be looked into")


def check_namespaces(sample: Sample) -> Finding:
    """Whether the sockets of other network namespaces are read from inside."""
    others = len(sample.namespaces) - 1
    if others <= 0:
        return Finding("namespaces", State.OK, "this host has one network namespace")
    inside = sum(one.how == "sock_diag" for one in sample.namespaces) - 1
    if inside == others:
        return Finding("namespaces", State.OK, f"all {others} others can be entered")
    unread = sum(not one.read for one in sample.namespaces)
    return Finding(
        "namespaces",
        State.LIMITED,
        f"{max(inside, 0)} of {others} others can be entered; the rest is read by /proc, which tells less"
        + (f", and {unread} not at all" if unread else ""),
        "loiter-agent install --with namespaces (CAP_SYS_ADMIN)",
    )
