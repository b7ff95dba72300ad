"""The programs that are scored, and what the sampler should say of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True, slots=True)
class Entry:
    """A program with its arguments.

    `expected` is the cause that one of its processes is to get, "ports" for a budget of ports that is nearly used up,
    or None for a program of which nothing may be said. One with a `warm_up` has run for so many seconds when the
    first sample is taken, and has a population of CLOSE_WAIT sockets by then, of which one sample can not tell that it
    turns over: what is said of it counts from the third sample on.
    """

    name: str
    expected: str | None
    script: str
    arguments: tuple[str, ...] = ()
    warm_up: float = 0.0


CATALOGUE = (
    Entry("forgets to close", "leak", "forgets_to_close"),
    Entry("leaks on errors", "leak", "leaks_on_errors"),
    Entry("child inherited", "leak", "inherited"),
    Entry("idle pool", "idle_pool", "idle_pool"),
    Entry("idle pool, TLS", "idle_pool", "idle_pool", ("--tls",)),
    Entry("blocked on a lock", "stalled_reader", "blocked_on_lock"),
    Entry("asleep on I/O", "stalled_reader", "asleep_on_io"),
    Entry("starved by a quota", "cpu_starved", "cpu_starved"),
    Entry("stops accepting", "never_accepted", "stops_accepting"),
    Entry("runs out of ports", "ports", "runs_out_of_ports"),
    Entry("crawler", None, "crawler"),
    Entry("crawler, keep-alive", None, "crawler", ("--keep-alive", "3", "--per-second", "20")),
    Entry("two crawlers", None, "crawler", ("--per-second", "10", "60")),
    Entry("pool and closer", None, "pool_and_closer"),
    Entry("server closes first", None, "closes_first"),
    Entry("busy churn", None, "busy_churn"),
    Entry("large quiet pool", None, "quiet_pool"),
    Entry("restarts", None, "restarts"),
    Entry("rolling deploy", None, "rolling_deploy"),
    Entry("slow closer", None, "slow_closer"),
    Entry("steady slow closer", None, "slow_closer", ("--close-after", "6"), warm_up=15.0),
    Entry("slow handlers", None, "slow_handlers", warm_up=15.0),
)
