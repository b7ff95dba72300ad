"""Says in words why a process has the sockets that it has. Pure: facts in, sentences out.

Everything that a host wrote is made safe to show. Into commands goes nothing that a host wrote but numbers and
addresses that were read as such: people paste commands into a root shell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from google.protobuf.message import Message

from loiter.durations import format_duration
from loiter.text import printable
from loiter.v1 import fleet_service_pb2, sample_pb2
from loiter_aggregator.output import cells

_YEAR_SECONDS: Final = 366 * 86_400.0
_SHOWN_ROWS: Final = 3
# A line that fits so well, through so many samples, is growth: what a pool does while it fills or shrinks is not.
_STEADY_FIT: Final = 0.9
_STEADY_SAMPLES: Final = 6
# A budget of ports that is worth a word although the process is fine otherwise, and the time in which descriptors run
# out that is.
_PORTS_SHARE: Final = 0.7
_SOON_SECONDS: Final = 7 * 86_400.0

_THREAD_STATES: Final = {
    "R": "running",
    "S": "asleep",
    "D": "in uninterruptible sleep, which is I/O as a rule",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "zombies",
    "I": "idle",
}
_HOW: Final = {
    sample_pb2.OWNER_SOURCE_EXACT: "the same connections were seen while it held them",
    sample_pb2.OWNER_SOURCE_LISTENER: "it listens on their port",
    sample_pb2.OWNER_SOURCE_CGROUP: "the same connections were seen in its cgroup",
    sample_pb2.OWNER_SOURCE_DESTINATION: "nearly all live connections to there are its",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What was asked, and what was found."""

    question: str
    finding: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why, how that was found, how to see it on the host, what to do, and what could not be seen."""

    verdict: str
    steps: tuple[Step, ...]
    commands: tuple[str, ...]
    remedies: tuple[str, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an explanation rests on. `time_wait` and `ports` are those of the process.

    `entered` tells that the sockets may be in another network namespace than those of a shell on the host, and
    `without_detail` that the agent left out what explains them.
    """

    process: sample_pb2.ProcessSample
    rank: fleet_service_pb2.ProcessRank
    time_wait: tuple[sample_pb2.TimeWaitGroup, ...]
    time_wait_ownerless: int
    time_wait_limits: sample_pb2.TimeWaitLimits
    ports: tuple[sample_pb2.PortBudget, ...]
    coverage: sample_pb2.Coverage
    entered: bool
    without_detail: bool

    @property
    def close_wait(self) -> int | None:
        """Sockets in CLOSE_WAIT at the latest sample."""
        return self.process.close_wait if self.process.HasField("close_wait") else None

    @property
    def evidence(self) -> sample_pb2.CloseWaitEvidence:
        """What was observed of them; empty where nothing was."""
        return self.process.evidence

    @property
    def exhausted(self) -> bool:
        """It has as many file descriptors open as its limit allows, or more."""
        known = self.process.HasField("fd_open") and self.process.HasField("fd_limit")
        return known and self.process.fd_open >= self.process.fd_limit

    @property
    def stopped(self) -> bool:
        """Most of its threads are stopped by a signal: state T of proc_pid_stat(5)."""
        states = self.evidence.thread_states
        return 2 * states.get("T", 0) > sum(states.values())

    @property
    def grows_steadily(self) -> bool:
        """Its CLOSE_WAIT sockets become more and more, in a line."""
        trend = self.rank.close_wait
        return trend.growth_per_hour >= 1 and trend.growth_fit >= _STEADY_FIT and trend.samples >= _STEADY_SAMPLES

    @property
    def fullest(self) -> sample_pb2.PortBudget | None:
        """The budget of ports of which the largest share is used."""
        known = [budget for budget in self.ports if budget.available]
        return max(known, key=lambda budget: budget.used / budget.available, default=None)


def facts_of(
    sample: sample_pb2.Sample, process: sample_pb2.ProcessSample, rank: fleet_service_pb2.ProcessRank
) -> Facts:
    """Picks from a sample what concerns one of its processes."""
    return Facts(
        process=process,
        rank=rank,
        time_wait=tuple(group for group in sample.time_wait if _owned(group.owner, process)),
        # Not those without a pid: a row that folds the rest has none, and yet its owners were found.
        time_wait_ownerless=sum(
            group.count for group in sample.time_wait if group.owner.source == sample_pb2.OWNER_SOURCE_UNATTRIBUTED
        ),
        time_wait_limits=sample.time_wait_limits,
        ports=tuple(budget for budget in sample.ports if budget.HasField("pid") and budget.pid == process.pid),
        coverage=sample.coverage,
        entered=process.HasField("container") or len(sample.namespaces) > 1,
        without_detail=sample.degradation >= sample_pb2.DEGRADATION_NO_DETAIL,
    )


def explain(facts: Facts) -> Explanation:
    """Explains."""
    steps = [(question, finding(facts)) for question, finding in _QUESTIONS]
    return Explanation(
        verdict=_verdict(facts),
        steps=tuple(Step(question, finding) for question, finding in steps if finding),
        commands=tuple(_commands(facts)),
        remedies=tuple(_remedies(facts)),
        unseen=tuple(_unseen(facts)),
    )


def _owned(owner: sample_pb2.TimeWaitOwner, process: sample_pb2.ProcessSample) -> bool:
    # A pid alone may be that of an earlier process.
    same_start = not owner.HasField("start_time") or owner.start_time == process.start_time
    return owner.HasField("pid") and owner.pid == process.pid and same_start


# The verdict.


def _verdict(facts: Facts) -> str:
    return " ".join(filter(None, (_stopped(facts), _why(facts), _exhausted(facts))))


def _stopped(facts: Facts) -> str:
    if not facts.stopped:
        return ""
    states = facts.evidence.thread_states
    return f"It is stopped, by a signal: so are {states['T']:,} of the {sum(states.values()):,} threads looked at."


def _exhausted(facts: Facts) -> str:
    if not facts.exhausted:
        return ""
    return f"It has no file descriptor left: {_descriptors(facts.process)}. So accept() and open() fail (EMFILE)."


def _why(facts: Facts) -> str:
    if facts.close_wait is None:
        return "How many CLOSE_WAIT sockets it holds is unknown."
    if not facts.close_wait:
        return f"It holds no CLOSE_WAIT sockets.{_other_trouble(facts)}"
    settled = facts.evidence.settled or facts.close_wait
    many = _sockets(settled)
    read = "were read to their end, and never closed"
    if facts.evidence.fin_unread > facts.evidence.eof_read:
        read = "are watched by none of its threads, which all wait for other things"
    pool = ""
    if facts.grows_steadily:
        hourly = cells.growth(facts.rank.close_wait.growth_per_hour)
        pool = f" But they grow steadily, by {hourly} an hour: connections are dropped and not closed, which is a leak."
    threads = f" ({_counts(facts.evidence.thread_states, _state)})" if facts.evidence.thread_states else ""
    unknown = "" if facts.stopped else "; what could be read does not tell why"
    said = {
        sample_pb2.CAUSE_LEAK: f"It leaks: {many} closed by the other side {read}.",
        sample_pb2.CAUSE_IDLE_POOL: f"It keeps {many} in a pool that the other side has closed while they were idle."
        + pool,
        sample_pb2.CAUSE_STALLED_READER: f"It does not read: {many} closed by the other side wait for its threads"
        f"{threads}.",
        sample_pb2.CAUSE_CPU_STARVED: f"It gets too little processor time to close {many} that the other side closed.",
        sample_pb2.CAUSE_NEVER_ACCEPTED: f"It does not accept: {many} closed by the other side still wait in the queue "
        "of its listener.",
        sample_pb2.CAUSE_UNKNOWN: f"It keeps {many} in CLOSE_WAIT{unknown}.",
    }
    if facts.without_detail:
        return (
            f"Why it holds {_sockets(facts.close_wait)} in CLOSE_WAIT is unknown: the agent leaves that out for now."
            + (_other_trouble(facts))
        )
    fine = f"Its {_sockets(facts.close_wait)} in CLOSE_WAIT have not been so for long: there is nothing to explain yet."
    return said.get(facts.process.cause, fine + _other_trouble(facts))


def _other_trouble(facts: Facts) -> str:
    trouble = []
    budget = facts.fullest
    if budget is not None and budget.used >= _PORTS_SHARE * budget.available:
        trouble.append("uses up the ephemeral ports towards a destination")
    forecast = facts.rank.HasField("fd_forecast") and not facts.exhausted  # which is said in any case
    if forecast and facts.rank.fd_forecast.seconds < _SOON_SECONDS:
        trouble.append("runs out of file descriptors")
    return f" But it {' and '.join(trouble)}." if trouble else ""


# The steps. A finding that is empty is not a step.


def _holds(facts: Facts) -> str:
    if facts.close_wait is None:
        return "Unknown: its sockets could not be read."
    said = f"{_sockets(facts.close_wait)}" if facts.close_wait else "None"
    # Of the sockets of the kernel, that is; figures that were read one after the other need not add up.
    if facts.process.HasField("sockets") and facts.process.sockets >= facts.close_wait:
        said += f" of its {facts.process.sockets:,}"
    if facts.rank.close_wait.HasField("maximum") and facts.rank.close_wait.maximum > facts.close_wait:
        said += f"; {facts.rank.close_wait.maximum:,} at most in the window"
    return said + "."


def _closed_first(facts: Facts) -> str:
    if not facts.close_wait:
        return ""
    return "The other side: a socket is in CLOSE_WAIT when its peer has closed and the program here has not."


def _stays(facts: Facts) -> str:
    if not facts.close_wait:
        return ""
    said = []
    if facts.process.HasField("close_wait_age"):
        ages = facts.process.close_wait_age
        said.append(
            f"Half have been so for {_time(ages.p50_seconds)} or longer, one in a hundred for {_time(ages.p99_seconds)}"
            f" or longer, the oldest for {_time(ages.max_seconds)}."
        )
    if facts.process.HasField("stuck"):
        said.append(f"{facts.process.stuck:,} are older than a minute.")
    if facts.evidence.HasField("survived"):
        said.append(f"Of those in the sample before, {_share(facts.evidence.survived)} are still there.")
    return " ".join(said) or "Unknown."


def _grows(facts: Facts) -> str:
    trend = facts.rank.close_wait
    if facts.close_wait and not trend.samples:
        return "Not to be told: none of its samples is of the window."
    if not trend.maximum:
        return ""
    if not trend.HasField("growth_per_hour"):
        return "Not to be told from fewer than three samples."
    if not trend.growth_per_hour:
        return f"No: it is the same in all of {trend.samples:,} samples."
    fit = f", with an r² of {trend.growth_fit:.2f}" if trend.HasField("growth_fit") else ""
    return f"By {cells.growth(trend.growth_per_hour)} sockets an hour, over {trend.samples:,} samples{fit}."


def _read(facts: Facts) -> str:
    evidence = facts.evidence
    if not evidence.settled:
        return ""
    classes = (
        (evidence.eof_read, "read to the end and not closed (Recv-Q 0)"),
        (evidence.fin_unread, "with nothing but the end unread (Recv-Q 1)"),
        (evidence.farewell_unread, "with a farewell unread, such as a TLS close_notify"),
        (evidence.data_unread, "with data unread (Recv-Q above 1)"),
        (evidence.never_accepted, "never accepted"),
    )
    found = "; ".join(f"{count:,} {what}" for count, what in classes if count)
    if not found:
        return ""
    opened = f" {evidence.client_side:,} were opened by this host." if evidence.HasField("client_side") else ""
    return f"Of {evidence.settled:,} that stay: {found}.{opened}"


def _accepts(facts: Facts) -> str:
    if not facts.evidence.HasField("accept_queue"):
        return ""
    queue = facts.evidence.accept_queue
    room = f"; there is room for {queue.limit:,}" if queue.limit else ""
    return f"Waiting in the accept queue of its listener: {queue.depth:,}{room}."


def _does(facts: Facts) -> str:
    evidence = facts.evidence
    said = []
    if evidence.thread_states:
        said.append(f"{_counts(evidence.thread_states, _state)} (threads looked at: {evidence.threads_read:,}).")
    if evidence.wait_channels:
        said.append(f"They sleep in {_threads(evidence.wait_channels)}.")
    return " ".join(said)


def _runs(facts: Facts) -> str:
    evidence: Message = facts.evidence
    shares = (
        ("run_delay_share", "a thread waited for a processor {} of the time"),
        ("throttled_share", "a CPU quota held it back {} of the time"),
        ("cpu_pressure", "a task of its cgroup waited for a processor {} of the time"),
        ("io_pressure", "for I/O {} of the time"),
    )
    found = [text.format(_share(getattr(evidence, name))) for name, text in shares if evidence.HasField(name)]
    return _sentence(", ".join(found))


def _peers(facts: Facts) -> str:
    def peer(one: sample_pb2.Peer) -> str:
        address = printable(one.address)
        if not one.HasField("port"):
            return f"{one.count:,} to {address}"
        return f"{one.count:,} to {f'[{address}]' if ':' in address else address}:{one.port}"

    return _sentence(_listed([peer(one) for one in facts.process.peers]))


def _waits(facts: Facts) -> str:
    def group(one: sample_pb2.TimeWaitGroup) -> str:
        where = f"towards {printable(one.destination)}" if one.destination else f"of its port {printable(one.listener)}"
        how = f" ({_HOW[one.owner.source]})" if one.owner.source in _HOW else ""
        return f"{one.count:,} {where}, {cells.rate(one.closes_per_second)} closes a second{how}"

    if not facts.time_wait:
        return ""
    seconds = facts.time_wait_limits.seconds or 60.0
    return (
        f"Yes, {sum(one.count for one in facts.time_wait):,}. This host closed first: who does keeps the socket, in "
        f"TIME_WAIT, for {_time(seconds)}. {_listed([group(one) for one in facts.time_wait])}.{_overflows(facts)}"
    )


def _overflows(facts: Facts) -> str:
    rate = facts.time_wait_limits.overflows_per_second
    if not rate:
        return ""
    return (
        f" The kernel has no room for {cells.rate(rate)} more a second on this host (tcp_max_tw_buckets): those are"
        " closes that are not counted here."
    )


def _has_ports(facts: Facts) -> str:
    def budget(one: sample_pb2.PortBudget) -> str:
        of = f" of {one.available:,}" if one.HasField("available") else ""
        said = f"{one.used:,}{of} ports used towards {printable(one.destination)}, {one.time_wait:,} in TIME_WAIT"
        if one.HasField("exhausted_in_seconds"):
            said += f"; none is left in {_time(one.exhausted_in_seconds)} at the present rate"
        if one.HasField("exhausting_connects_per_second"):
            said += f"; {cells.rate(one.exhausting_connects_per_second)} connections a second use them up"
        return said

    return _sentence(_listed([budget(one) for one in facts.ports]))


def _has_descriptors(facts: Facts) -> str:
    process, rank = facts.process, facts.rank
    if not process.HasField("fd_open"):
        return ""
    said = f"{_descriptors(process)}."
    # What was never accepted is a socket of the process without a descriptor.
    if process.HasField("sockets") and process.sockets <= process.fd_open and not facts.evidence.never_accepted:
        said += f" {process.sockets:,} of them are TCP sockets."
    if facts.exhausted:
        return "None: " + said
    if not rank.HasField("fd_forecast"):
        return said + " They do not grow, or that can not be told."
    forecast = rank.fd_forecast
    said += f" They grow by {cells.rate(forecast.growth_per_hour)} an hour and are used up in {_time(forecast.seconds)}"
    if forecast.HasField("earliest_seconds") and forecast.HasField("latest_seconds"):
        earliest, latest = _time(forecast.earliest_seconds), _time(forecast.latest_seconds)
        said += f" ({'' if earliest == latest else f'{earliest} to {latest} '}with 95 % confidence)"
    if forecast.HasField("close_wait_share"):
        said += f"; CLOSE_WAIT explains {_share(forecast.close_wait_share)} of that growth"
    return said + "."


def _descriptors(process: sample_pb2.ProcessSample) -> str:
    if not process.HasField("fd_limit") or process.fd_limit >= 2**63:
        return f"{process.fd_open:,} are open"
    if process.fd_open > process.fd_limit:
        return f"{process.fd_open:,} are open, and no more than {process.fd_limit:,} may be"
    return f"{process.fd_open:,} of {process.fd_limit:,} are open"


_QUESTIONS: Final[Sequence[tuple[str, Callable[[Facts], str]]]] = (
    ("Does it hold CLOSE_WAIT sockets?", _holds),
    ("Who closed first?", _closed_first),
    ("Do they stay?", _stays),
    ("Does their number grow?", _grows),
    ("Has the program read what came?", _read),
    ("Does it accept?", _accepts),
    ("What are its threads doing?", _does),
    ("Does it get the processor?", _runs),
    ("Who is at the other end?", _peers),
    ("Does it leave sockets in TIME_WAIT?", _waits),
    ("Are there ports left?", _has_ports),
    ("Are there file descriptors left?", _has_descriptors),
)


# What shows the same on the host.


def _commands(facts: Facts) -> Iterable[str]:
    pid = facts.process.pid
    # ss reads the namespace it runs in; -n enters that of the process, and no more.
    ss = f"nsenter -t {pid} -n ss" if facts.entered else "ss"
    if facts.close_wait and facts.process.cause != sample_pb2.CAUSE_NEVER_ACCEPTED:
        yield f"{ss} -tanpo state close-wait | grep 'pid={pid},'"
    if facts.evidence.never_accepted:
        yield f"{ss} -tlnp | grep 'pid={pid},'    # Recv-Q: the accept queue"
        yield f"{ss} -tanpo state close-wait | grep -v pid=    # never accepted"
    if facts.process.cause in (sample_pb2.CAUSE_STALLED_READER, sample_pb2.CAUSE_NEVER_ACCEPTED):
        yield f"ps -L -o tid,stat,wchan:32,comm -p {pid}"
    if facts.process.cause == sample_pb2.CAUSE_CPU_STARVED:
        yield f"cat /proc/{pid}/task/*/schedstat /proc/pressure/cpu"
    for group in facts.time_wait[:_SHOWN_ROWS]:
        if (condition := _condition(group)) is not None:
            yield f"{ss} -Htan state time-wait {condition} | wc -l"
    if facts.ports:
        enter = f"nsenter -t {pid} -n " if facts.entered else ""
        yield f"{enter}sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse"
    yield f"ls /proc/{pid}/fd | wc -l; grep 'open files' /proc/{pid}/limits"


def _condition(group: sample_pb2.TimeWaitGroup) -> str | None:
    """The filter of ss(8) for the sockets of a group; None where its addresses are none."""
    if group.listener:
        port = _port(group.listener.rpartition(":")[2])
        return None if port is None else f"sport = :{port}"
    host, _, tail = group.destination.rpartition(":")
    port = _port(tail)
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if port is None or "%" in host:  # a scope may be any text
        return None
    return f"dst '[{address}]:{port}'" if isinstance(address, IPv6Address) else f"dst {address}:{port}"


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else None


# What to do.

_REMEDIES: Final[Mapping[int, Sequence[str]]] = {
    sample_pb2.CAUSE_LEAK: (
        "Close the socket once a read returns its end (0 bytes): on every path, those of errors and timeouts too. Tie "
        "it to a scope: `with`, `defer`, try-with-resources, RAII.",
        "Until then, a restart frees the descriptors; a higher limit only buys time.",
    ),
    sample_pb2.CAUSE_IDLE_POOL: (
        "Have the pool close idle connections sooner than the other side does: set its idle timeout below the server's "
        "keep-alive timeout.",
        "Have it check idle connections now and then, or close it when it is not needed; a smaller pool holds fewer.",
    ),
    sample_pb2.CAUSE_STALLED_READER: (
        "Find out what its threads wait for, with a thread dump: py-spy dump, jstack, gdb. A wait in futex_* is a "
        "lock; one in a file system or in a pipe is I/O.",
        "Give every wait for a lock or another service a timeout, and do not read sockets in the thread that waits.",
    ),
    sample_pb2.CAUSE_CPU_STARVED: (
        "Give it more processor time: raise its quota (CPUQuota= of the unit, the CPU limit of the container), or take "
        "other load from the host.",
        "Have it do less at once: fewer threads or workers than there are processors for.",
    ),
    sample_pb2.CAUSE_NEVER_ACCEPTED: (
        "Find out why it does not call accept(): the thread that does may be blocked or have ended.",
        "Do not raise the backlog: it only lets more connections wait for an answer that does not come.",
    ),
    sample_pb2.CAUSE_UNKNOWN: (
        "Look at what is named below as not seen: with those rights given to the agent, it may tell.",
        "Take a thread dump of the program and look for the sockets of the peers above.",
    ),
}


def _remedies(facts: Facts) -> Iterable[str]:
    process, evidence = facts.process, facts.evidence
    if facts.stopped:
        yield f"kill -CONT {process.pid} lets it go on. Find out who stopped it: SIGSTOP, or Ctrl-Z on its terminal."
    if facts.exhausted:
        yield from _more_descriptors(process)
    if process.cause == sample_pb2.CAUSE_IDLE_POOL and facts.grows_steadily:
        yield (
            "Find where a client, a session or a pool is made for each request and dropped: keep one, or close each. "
            "The program opened these connections: the fault is on this side."
        )
    # Who is stopped, or has no descriptor to accept with, needs no other remedy: but a leak does.
    told = facts.stopped or (facts.exhausted and process.cause == sample_pb2.CAUSE_NEVER_ACCEPTED)
    if not told or process.cause == sample_pb2.CAUSE_LEAK:
        yield from _REMEDIES.get(process.cause, ())
    if process.cause == sample_pb2.CAUSE_LEAK and evidence.HasField("client_side") and evidence.settled:
        if evidence.client_side * 2 > evidence.settled:
            yield "It opened most of these connections: look at its clients. A response that is not read keeps its own."
        else:
            yield "It accepted most of these connections: look at its handlers that end without closing."
    budget = facts.fullest
    if budget is not None and budget.used >= _PORTS_SHARE * budget.available:
        yield (
            "Keep connections to the destination open and use them again (keep-alive, a pool), so that fewer ports go "
            "into TIME_WAIT. Further: a wider net.ipv4.ip_local_port_range, more source or destination addresses."
        )
        if facts.time_wait_limits.HasField("reuse") and facts.time_wait_limits.reuse != 1:
            yield "net.ipv4.tcp_tw_reuse=1 lets the kernel use ports in TIME_WAIT again, where timestamps are on."
    forecast = facts.rank.HasField("fd_forecast") and not facts.exhausted
    if forecast and process.fd_limit < process.fd_limit_hard:
        yield (
            f"Its soft limit of {process.fd_limit:,} descriptors may be raised up to the hard one, "
            f"{_limit(process.fd_limit_hard)} (LimitNOFILE= of its unit); that moves the time, not the cause."
        )


def _more_descriptors(process: sample_pb2.ProcessSample) -> Iterable[str]:
    if process.HasField("fd_limit_hard") and process.fd_limit < process.fd_limit_hard < 2**63:
        yield (
            f"prlimit --pid {process.pid} --nofile={process.fd_limit_hard}: raises its limit up to the hard one while "
            "it runs; that buys time, and no more."
        )
    else:
        yield "A restart frees its descriptors; a higher limit (LimitNOFILE= of its unit) buys time, and no more."
    yield f"Find out what it keeps open: ls -l /proc/{process.pid}/fd. As a rule it is sockets that are never closed."


# What could not be seen.


def _unseen(facts: Facts) -> Iterable[str]:
    process, evidence, coverage = facts.process, facts.evidence, facts.coverage
    if facts.rank.silent:
        yield "The host fell silent: all of this is of its last sample."
    if facts.without_detail:
        yield "What the agent leaves out to keep within its processor budget: causes, ages, peers, TIME_WAIT owners."
    elif facts.close_wait and not process.HasField("evidence"):
        yield "Its CLOSE_WAIT sockets could not be looked into: neither their queues nor its threads."
    if facts.close_wait and not process.HasField("close_wait_age") and not facts.without_detail:
        yield "How long its sockets have been in CLOSE_WAIT."
    if process.HasField("evidence"):
        if not evidence.HasField("survived"):
            yield "Whether its sockets were there in the sample before: there was none."
        if evidence.settled and not evidence.thread_states:
            yield "What its threads do."
        elif evidence.threads > evidence.threads_read:
            unread = evidence.threads - evidence.threads_read
            yield f"What {unread:,} of its {evidence.threads:,} threads do: they were not looked at."
        if evidence.thread_states.keys() - {"R"} and not evidence.wait_channels:
            yield "In which function of the kernel its threads sleep: /proc/PID/wchan could not be read."
        if evidence.settled and not (evidence.HasField("run_delay_share") or evidence.HasField("cpu_pressure")):
            yield "Whether it gets the processor: neither schedstat nor pressure could be read."
    if not process.HasField("fd_open") or not process.HasField("fd_limit"):
        yield "Its file descriptors or their limit."
    gaps = (
        (coverage.sockets_unattributed, "Sockets of the host whose holder was not found"),
        (coverage.close_wait_uncharged, "CLOSE_WAIT sockets of the host that are charged to nobody"),
        (facts.time_wait_ownerless, "TIME_WAIT sockets of the host whose owner was not found"),
        (coverage.processes_unreadable, "Processes of the host whose descriptors could not be read"),
        (coverage.namespaces_unread, "Network namespaces of the host whose sockets could not be read"),
        (coverage.namespaces_by_procfs, "Network namespaces of the host that were read from /proc/PID/net/tcp alone"),
    )
    yield from (f"{what}: {count:,}." for count, what in gaps if count)
    if coverage.dump_torn:
        yield "The sockets changed while they were read: counts may be slightly off."


# Words.


def _sockets(count: int) -> str:
    return f"{count:,} socket" if count == 1 else f"{count:,} sockets"


def _time(seconds: float) -> str:
    return format_duration(seconds) if seconds < _YEAR_SECONDS else "over a year"


def _share(share: float) -> str:
    return f"{min(100.0, 100 * share):.0f} %"


def _limit(limit: int) -> str:
    return f"{limit:,}" if limit < 2**63 else "unlimited"


def _state(letter: str) -> str:
    return _THREAD_STATES.get(letter, printable(letter))


def _counts(counts: Mapping[str, int], name: Callable[[str], str]) -> str:
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _listed([f"{count:,} {name(key)}" for key, count in largest])


def _threads(wait_channels: Mapping[str, int]) -> str:
    if len(wait_channels) == 1:
        return printable(next(iter(wait_channels)))
    return _counts(wait_channels, printable)


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - _SHOWN_ROWS
    return "; ".join(parts[:_SHOWN_ROWS]) + (f"; and {more:,} more" if more > 0 else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""
