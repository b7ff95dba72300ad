"""Whether closes can be traced by BPF: the program is loaded, tried with a connection of its own, and removed."""

from __future__ import annotations

import errno

from loiter_agent.checks.finding import Finding, State


def check_tracer() -> Finding:
    """Tries it."""
    from loiter_agent.close_tracer import CloseTracer

    try:
        CloseTracer(entries=64).close()
    except OSError as error:
        # Not EACCES, which is the verifier's. Where the rights are there, it is the kernel or the container.
        remedy = "loiter-agent install --with close-tracer" if error.errno == errno.EPERM else None
        return Finding(
            "close tracer",
            State.LIMITED,
            f"owners of TIME_WAIT sockets are found in other ways ({error.strerror or error})",
            remedy,
        )
    return Finding("close tracer", State.OK, "BPF tells which process closes a connection")
