"""What can be seen with the rights of this process: `python -m loiter_agent.checks.seen` prints it as JSON.

`check` runs it with the rights of the service, which are fewer than those of root.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loiter_agent.checks.capabilities import check_capabilities
from loiter_agent.checks.coverage import check_namespaces, check_processes, take_sample
from loiter_agent.checks.finding import Finding, State
from loiter_agent.checks.kernel import check_kernel
from loiter_agent.checks.tracer import check_tracer
from loiter_agent.procfs import Procfs


def seen() -> list[Finding]:
    """Checks all that depends on rights."""
    with _silent():
        procfs = Procfs()
        sample = take_sample(procfs)
        capabilities = check_capabilities()
        return [
            capabilities,
            *check_kernel(procfs),
            check_processes(sample, procfs.hides_processes(), capabilities.state is State.OK),
            check_namespaces(sample),
            check_tracer(),
        ]


@contextmanager
def _silent() -> Iterator[None]:
    """What the sampler has to say of it is what the findings say."""
    log = logging.getLogger("loiter_agent")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def as_document(findings: list[Finding]) -> list[dict[str, str | None]]:
    """As JSON has it."""
    return [
        {"check": one.check, "state": one.state.value, "finding": one.finding, "remedy": one.remedy} for one in findings
    ]


def from_document(document: list[dict[str, str]]) -> list[Finding]:
    """Of what `as_document` made."""
    return [Finding(row["check"], State(row["state"]), row["finding"], row["remedy"]) for row in document]


if __name__ == "__main__":
    json.dump(as_document(seen()), sys.stdout)
