"""Holds what the sampler said against what the programs know. Pure: no clock, no files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from leaklab.catalogue import Entry
from leaklab.truth import Close, Fault, Truth
from loiter_agent.sample import Cause, OwnerSource, Sample, TimeWaitRow

# The sample after its onset in which a fault has to be told, at the latest.
RIGHT_WITHIN = 3
# A socket stays in TIME_WAIT for TCP_TIMEWAIT_LEN (60 s), and the kernel's timers of that length are late by seconds:
# more sockets than were closed in so long are surely not the process's.
TIME_WAIT_AT_MOST_SECONDS = 66.0
# A socket that was closed so long ago is in TIME_WAIT for certain: the other side has had the time to close, too.
TIME_WAIT_FOR_CERTAIN_SECONDS = (1.0, 59.0)
# How long a connection of the programs lasts at most: the time between the end of a TIME_WAIT socket whose ports are
# used again and the close that follows.
CONNECTION_SECONDS = 4.0

# A budget of ports of which more than this share is in use is a warning.
FULL_PORTS = 0.8

CERTAIN: frozenset[OwnerSource] = frozenset(("exact", "listener"))


@dataclass(frozen=True, slots=True)
class Observation:
    """A sample, when it was begun and ended (CLOCK_MONOTONIC, seconds), and the processes that lived at its end."""

    begun: float
    ended: float
    sample: Sample
    alive: frozenset[int]

    @property
    def causes(self) -> dict[int, Cause | None]:
        """The cause of each process that was reported."""
        return {row.pid: row.cause for row in self.sample.processes}


@dataclass(slots=True)
class ProgramScore:
    """How the verdicts on one program were. The unit is one process in one sample.

    `due` are those in which a fault had to be told, `right` those of them in which it was. `wrong` are the causes that
    were told and are not so: another one when the right one was due, and any of a process that did nothing wrong.
    `false_warnings` are the other warnings of a healthy program: descriptors or ports that are said to run out.
    """

    entry: Entry
    skipped: str | None = None
    due: int = 0
    right: int = 0
    wrong: int = 0
    false_alarms: int = 0
    false_warnings: int = 0
    samples_until_right: int | None = None
    verdicts: Counter[str] = field(default_factory=Counter)

    @property
    def told_in_time(self) -> bool:
        """Whether the fault, if there is one, was told within as many samples as it may take."""
        if self.entry.expected is None or self.skipped is not None:
            return True
        return self.samples_until_right is not None and self.samples_until_right <= RIGHT_WITHIN


def score_program(entry: Entry, truth: Truth, observations: Sequence[Observation]) -> ProgramScore:
    """Scores one program."""
    score = ProgramScore(entry, truth.skipped)
    for fault in truth.faults:
        _score_fault(score, fault, observations)
    # Of what was there before the sampler, it has to learn first whether it stays.
    judged = observations[RIGHT_WITHIN - 1 :] if entry.warm_up else observations
    _score_health(score, truth, judged)
    if entry.expected is None:
        _count_false_warnings(score, truth, judged)
    if truth.ports is not None:
        _score_ports(score, truth, observations)
    if entry.expected is not None and truth.skipped is None and score.due == 0:
        score.due = 1  # it should have misbehaved and did not, or not for long enough: that is no success
    return score


def _score_fault(score: ProgramScore, fault: Fault, observations: Sequence[Observation]) -> None:
    after = [observation for observation in observations if observation.begun >= fault.since]
    for number, observation in enumerate(after, start=1):
        verdict = observation.causes.get(fault.pid)
        right = verdict == fault.cause
        if right and score.samples_until_right is None:
            score.samples_until_right = number
        if number < RIGHT_WITHIN:
            continue
        score.verdicts[verdict or "-"] += 1
        score.due += 1
        score.right += right
        score.wrong += verdict is not None and not right


def _score_health(score: ProgramScore, truth: Truth, observations: Sequence[Observation]) -> None:
    """Any cause of a process that does nothing wrong, or not yet, is a false alarm."""
    since = {fault.pid: fault.since for fault in truth.faults}
    for observation in observations:
        causes = observation.causes
        for pid in truth.pids & causes.keys():
            cause = causes[pid]
            if cause is not None and observation.ended < since.get(pid, float("inf")):
                score.false_alarms += 1
                score.verdicts[f"false {cause}"] += 1
    score.wrong += score.false_alarms


def _count_false_warnings(score: ProgramScore, truth: Truth, observations: Iterable[Observation]) -> None:
    """Nothing of a healthy program runs out."""
    for observation in observations:
        rows = [row for row in observation.sample.processes if row.pid in truth.pids]
        running_out = sum(row.fd_eta_seconds is not None for row in rows)
        full = sum(share > FULL_PORTS for share in _port_shares(truth, observation))
        score.verdicts.update({"false fd-eta": running_out} if running_out else {})
        score.verdicts.update({"false ports": full} if full else {})
        score.false_warnings += running_out + full


def _port_shares(truth: Truth, observation: Observation, port: int | None = None) -> list[float]:
    """The shares of ports in use in the program's namespace, towards a port or towards any."""
    return [
        row.used / row.available
        for row in observation.sample.ports or ()
        if row.available and row.namespace == truth.namespace and port in (None, _port(row.destination))
    ]


def _score_ports(score: ProgramScore, truth: Truth, observations: Sequence[Observation]) -> None:
    assert truth.ports is not None
    after = [observation for observation in observations if observation.begun >= truth.ports.since]
    for number, observation in enumerate(after, start=1):
        right = max(_port_shares(truth, observation, truth.ports.port), default=0.0) >= truth.ports.share
        if right and score.samples_until_right is None:
            score.samples_until_right = number
        if number >= RIGHT_WITHIN:
            score.verdicts["ports" if right else "-"] += 1
            score.due += 1
            score.right += right


@dataclass(slots=True)
class OwnerScore:
    """Whose the TIME_WAIT sockets were said to be. The unit is one socket in one sample.

    `living` are the sockets of processes that lived, `certain` those of them that were rightly charged as `exact` or
    `listener`. `missing` are those that should have been in a sample and are in none of its rows, of `closed`.
    `of_bystanders` are those that were charged to a process that closes nothing.
    """

    right: Counter[OwnerSource] = field(default_factory=Counter)
    wrong: Counter[OwnerSource] = field(default_factory=Counter)
    unattributed: int = 0
    living: float = 0.0
    certain: float = 0.0
    closed: int = 0
    missing: int = 0
    of_bystanders: int = 0

    @property
    def missing_share(self) -> float:
        """The share of the sockets that were closed which the samples do not show at all."""
        return _share(self.missing, self.closed)

    @property
    def total(self) -> int:
        """All sockets that were scored."""
        return self.right.total() + self.wrong.total() + self.unattributed

    @property
    def wrong_share(self) -> float:
        """The share whose owner is wrong. Unattributed is not wrong."""
        return _share(self.wrong.total(), self.total)

    @property
    def certain_share(self) -> float:
        """Of the sockets whose owner lives, the share that is rightly charged as `exact` or `listener`."""
        return _share(self.certain, self.living)


@dataclass(frozen=True, slots=True)
class _Side:
    """The sockets that have a port in common, of one side: those who listen on it, or those who connected to it."""

    namespace: str
    listening: bool
    port: int


def score_owners(truths: Sequence[Truth], observations: Sequence[Observation]) -> OwnerScore:
    """Scores the owners of TIME_WAIT sockets of those programs that wrote down what they closed."""
    closes = _closes_by_side(truths)
    bystanders = frozenset[int]().union(*(truth.bystanders for truth in truths))
    score = OwnerScore()
    for observation in observations:
        time_wait = observation.sample.time_wait or ()
        score.of_bystanders += sum(row.count for row in time_wait if row.owner.pid in bystanders)
        rows: dict[_Side, list[TimeWaitRow]] = defaultdict(list)
        for row in time_wait:
            side = _side(row)
            if side in closes:
                rows[side].append(row)
        for side, group in rows.items():
            owners = Counter(close.pid for close in closes[side] if _may_be_in_time_wait(close, observation))
            _score_group(score, group, owners, observation.alive)
        _count_missing(score, truths, rows, observation)
    return score


def _count_missing(
    score: OwnerScore, truths: Iterable[Truth], rows: Mapping[_Side, Sequence[TimeWaitRow]], observation: Observation
) -> None:
    """Counts the sockets that are in no row. A close belongs to two sides, its socket to one row: so by program."""
    seen: Counter[str] = Counter()
    for side, group in rows.items():
        seen[side.namespace] += sum(row.count for row in group)
    for truth in truths:
        closed = sum(_must_be_in_time_wait(close, observation) for close in truth.closes)
        score.closed += closed
        score.missing += max(0, closed - seen[truth.namespace])


def _score_group(
    score: OwnerScore, rows: Sequence[TimeWaitRow], owners: Mapping[int, int], alive: frozenset[int]
) -> None:
    """Scores the rows of one side against how many sockets of it each process has put into TIME_WAIT."""
    living = sum(count for pid, count in owners.items() if pid in alive)
    score.living += sum(row.count for row in rows) * _share(living, sum(owners.values()))
    left = Counter(owners)
    # Those most sure of themselves first: they are to be taken at their word.
    for row in sorted(rows, key=lambda row: row.owner.how not in CERTAIN):
        pid, how = row.owner.pid, row.owner.how
        if pid is None:
            score.unattributed += row.count
            continue
        right = min(row.count, left[pid])
        left[pid] -= right
        score.right[how] += right
        score.wrong[how] += row.count - right
        if how in CERTAIN and pid in alive:
            score.certain += right


def _closes_by_side(truths: Iterable[Truth]) -> dict[_Side, list[Close]]:
    """The closes by either side that a sample may group them by."""
    closes: dict[_Side, list[Close]] = defaultdict(list)
    for truth in truths:
        for close in truth.closes:
            for side in _sides(truth.namespace, close):
                closes[side].append(close)
    return closes


def _sides(namespace: str, close: Close) -> tuple[_Side, _Side]:
    return _Side(namespace, False, close.remote_port), _Side(namespace, True, close.local_port)


def _side(row: TimeWaitRow) -> _Side | None:
    """The side of a row; None for the row that stands for the rest."""
    address = row.listener or row.destination
    return _Side(row.namespace, row.listener is not None, _port(address)) if address else None


def _may_be_in_time_wait(close: Close, observation: Observation) -> bool:
    """Whether a close may have a socket in TIME_WAIT when the sample is taken."""
    since = observation.begun - TIME_WAIT_AT_MOST_SECONDS
    return since <= close.at <= observation.ended and close.again >= observation.begun


def _must_be_in_time_wait(close: Close, observation: Observation) -> bool:
    """Whether a close has a socket in TIME_WAIT for certain when the sample is taken."""
    least, most = TIME_WAIT_FOR_CERTAIN_SECONDS
    return least <= observation.begun - close.at <= most and close.again >= observation.ended + CONNECTION_SECONDS


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """The whole lab."""

    programs: tuple[ProgramScore, ...]
    owners: OwnerScore

    @property
    def recall(self) -> float:
        """Of the verdicts that were due, the share that was right."""
        return _share(sum(one.right for one in self.programs), sum(one.due for one in self.programs))

    @property
    def precision(self) -> float:
        """Of the verdicts that were given, the share that was right."""
        right = sum(one.right for one in self.programs)
        return _share(right, right + sum(one.wrong for one in self.programs))

    @property
    def false_alarms(self) -> int:
        """Verdicts on processes that did nothing wrong."""
        return sum(one.false_alarms for one in self.programs)

    @property
    def false_warnings(self) -> int:
        """Descriptors or ports of a healthy program that were said to run out."""
        return sum(one.false_warnings for one in self.programs)


def score(lab: Iterable[tuple[Entry, Truth]], observations: Sequence[Observation]) -> Score:
    """Scores programs together with their samples."""
    pairs = list(lab)
    return Score(
        programs=tuple(score_program(entry, truth, observations) for entry, truth in pairs),
        owners=score_owners([truth for _, truth in pairs], observations),
    )
