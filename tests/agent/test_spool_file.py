"""The file of the spool: whatever is done to it, each sample is in it, settled, or in one of its losses."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter_agent.spool_bounds import MAX_LOSSES, Bounds, Now
from loiter_agent.spool_database import Corrupt, LaterVersion
from loiter_agent.spool_file import Position, SpoolFile
from loiter_agent.spool_rows import Counts, new_epoch
from support.reports import NOW, SECOND, boot_id, host_id, report

HOST = "web-1"
EPOCH = 7
GENEROUS = Bounds(max_bytes=10_000_000, max_age=86_400)
EARLIER_BOOT = "8f0b6f6e-5d0e-4f6b-9d3c-0a1b2c3d4e5f"


def at(seconds: float) -> Now:
    """The time, so many seconds after the boot."""
    return Now(boot_id(HOST), seconds)


def taken(sequence: int, epoch: int = EPOCH, seconds: float = 0.0, boot: str | None = None) -> tuple[pb.Report, float]:
    """A report, taken so many seconds after the boot."""
    made = report(HOST, sequence, epoch=epoch)
    made.boot_id = boot or boot_id(HOST)
    made.taken_since_boot.FromNanoseconds(round(seconds * 1e9))
    return made, NOW / SECOND + seconds


def waiting(file: SpoolFile) -> list[pb.Report]:
    """All that a file gives out, in the order in which it would be sent."""
    found: list[pb.Report] = []
    for position in file.positions():
        after = position.sequence
        while reports := file.read(position.epoch, after):
            found += reports
            after = reports[-1].sequence
    return found


def short(reports: list[pb.Report]) -> list[int | tuple[int, int]]:
    """Sequences, or pairs of them for losses."""
    return [(one.loss.first_sequence, one.sequence) if one.HasField("loss") else one.sequence for one in reports]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def file(path: Path) -> Iterator[SpoolFile]:
    opened = SpoolFile(host_id(HOST), path)
    yield opened
    opened.close()


def fill(file: SpoolFile, last: int, first: int = 1, epoch: int = EPOCH) -> None:
    file.append([taken(sequence, epoch) for sequence in range(first, last + 1)], GENEROUS, at(0))


def keep(file: SpoolFile, reports: int, next_sequence: int, epoch: int = EPOCH) -> None:
    """Adds a report under a bound that has room for so many."""
    file.append([taken(next_sequence, epoch)], Bounds(10_000_000, 86_400, reports), at(0))


class Model:
    """A spool beside a list of what became of each sample, and what is done to both."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.random = rng
        self.path = folder / "0.db"
        self.file = SpoolFile(host_id(HOST), self.path)
        self.kills = 0
        self.epoch, self.sequence, self.now = 1, 0, 0.0
        self.order: dict[tuple[int, int], int] = {}
        self.settled: set[tuple[int, int]] = set()
        self.lost: set[tuple[int, int]] = set()
        self.dropped = 0

    def append(self) -> None:
        """Under a bound, which drops what is beyond it."""
        new = []
        for _ in range(self.random.randint(1, 6)):
            self.sequence += 1
            self.now += 1
            new.append(taken(self.sequence, self.epoch, self.now))
            self.order[self.epoch, self.sequence] = len(self.order)
        bounds = Bounds(
            self.random.choice((500, 10**7)), self.random.choice((20, 10**6)), self.random.choice((3, None))
        )
        self.file.append(new, bounds, at(self.now))

    def acknowledge(self) -> None:
        """Up to any that waits, or to somewhere within a loss."""
        if reports := waiting(self.file):
            one = self.random.choice(reports)
            sequence = max(0, one.sequence - self.random.choice((0, 0, 1, 2)))
            self.file.acknowledge(one.spool_epoch, sequence)
            self.settled |= {name for name in self.order if name[0] == one.spool_epoch and name[1] <= sequence}

    def reject(self) -> None:
        """Any that waits, be it a loss."""
        if reports := waiting(self.file):
            one = self.random.choice(reports)
            self.file.reject(one.spool_epoch, one.sequence)
            self.settled |= numbers(one)
            self.dropped += one.HasField("sample")

    def begin_epoch(self) -> None:
        """As when an agent connects with many that wait."""
        self.epoch, self.sequence = self.epoch + 1, 0

    def reopen(self) -> None:
        """As when an agent ends, and starts."""
        self.file.close()
        self.file = SpoolFile(host_id(HOST), self.path)
        self.begin_epoch()

    def kill(self) -> None:
        """What is on the disk at this moment is all there is."""
        self.kills += 1
        copy = self.folder / f"{self.kills}.db"
        for ending in ("", "-wal"):
            if (one := self.path.with_name(self.path.name + ending)).exists():
                shutil.copy(one, copy.with_name(copy.name + ending))
        self.file.close()
        self.path, self.file = copy, SpoolFile(host_id(HOST), copy)
        self.begin_epoch()

    def check(self) -> None:
        """Each sample waits, is in a loss that waits, or was answered for. The oldest were lost first."""
        reports = waiting(self.file)
        samples = [name for one in reports if one.HasField("sample") for name in numbers(one)]
        lost = [name for one in reports if one.HasField("loss") for name in numbers(one)]
        assert len(samples + lost) == len(set(samples + lost)), "one is there twice"
        assert set(samples + lost) == set(self.order) - self.settled
        self.dropped += len(set(lost) - self.lost)
        self.lost |= set(lost)
        counts = self.file.counts
        losses = sum(one.HasField("loss") for one in reports)
        assert counts == Counts(len(reports), counts.bytes, losses, self.dropped)
        assert counts == self.file._rows.count(), "kept beside the file, and found again as it is opened"
        if lost and samples:
            assert max(self.order[one] for one in lost) < min(self.order[one] for one in samples)


def numbers(one: pb.Report) -> set[tuple[int, int]]:
    """The samples that a report stands for."""
    first = one.loss.first_sequence or one.sequence
    return {(one.spool_epoch, number) for number in range(first, one.sequence + 1)}


@pytest.mark.parametrize("seed", range(12))
def test_no_sample_is_lost_doubled_or_miscounted_whatever_is_done(tmp_path: Path, seed: int) -> None:
    """Appended, acknowledged, rejected, dropped, opened again and killed in any order."""
    model = Model(tmp_path, random.Random(seed))
    often = (model.append, model.append, model.append, model.acknowledge, model.reject)
    for _ in range(60):
        model.random.choice((*often, *often, model.begin_epoch, model.reopen, model.kill))()
        model.check()
    assert model.lost & model.settled
    assert model.kills
    model.file.close()


def test_a_loss_of_which_a_part_is_acknowledged_begins_behind_that(file: SpoolFile, path: Path) -> None:
    """It grew after it was sent."""
    fill(file, 10)
    keep(file, 2, 11)
    assert short(waiting(file)) == [(1, 9), 10, 11]
    file.acknowledge(EPOCH, 3)
    assert short(waiting(file)) == [(4, 9), 10, 11]
    assert file.positions() == [Position(EPOCH, 3)]
    file.close()
    assert short(waiting(SpoolFile(host_id(HOST), path))) == [(4, 9), 10, 11]


def test_losses_of_one_kind_side_by_side_are_one(file: SpoolFile) -> None:
    """It tells the times of its first and its last sample."""
    fill(file, 5)
    for sequence in (6, 7, 8):
        keep(file, 2, sequence)
    (loss, *_) = waiting(file)
    assert (loss.loss.first_sequence, loss.sequence, loss.loss.reason) == (1, 6, pb.LOSS_REASON_SPOOL_FULL)
    assert loss.loss.first_sample_time.seconds == loss.loss.last_sample_time.seconds == NOW // SECOND
    assert file.counts.losses == 1
    assert file.counts.dropped == 6


def test_a_loss_does_not_reach_over_what_was_rejected(file: SpoolFile) -> None:
    """The aggregator knows of that one already."""
    fill(file, 6)
    file.reject(EPOCH, 3)
    keep(file, 1, 7)
    assert short(waiting(file)) == [(1, 2), (4, 6), 7]
    assert file.counts.dropped == 6


def test_what_is_too_old_is_dropped(file: SpoolFile) -> None:
    """By the clock that never steps."""
    bounds = Bounds(10_000_000, 100)
    file.append([taken(1, seconds=0), taken(2, seconds=50)], bounds, at(50))
    file.append([taken(3, seconds=120)], bounds, at(120))
    (loss, *rest) = waiting(file)
    assert short([loss]) == [(1, 1)]
    assert loss.loss.reason == pb.LOSS_REASON_TOO_OLD
    assert short(rest) == [2, 3]


@pytest.mark.parametrize("years", [-57, 0, 57])
@pytest.mark.parametrize(("up", "left"), [(60, [1, 1]), (100, [1, 1]), (101, [(1, 1), 1])])
def test_what_another_boot_left_is_as_old_as_this_boot(
    file: SpoolFile, years: int, up: float, left: list[object]
) -> None:
    """Which is certain; what the wall clock said of it, and says now, is not."""
    bounds = Bounds(10_000_000, 100)
    left_behind, _ = taken(1, seconds=1_000_000, boot=EARLIER_BOOT)
    file.append([(left_behind, NOW / SECOND + years * 365 * 86_400)], bounds, Now(EARLIER_BOOT, 1_000_000))
    file.append([taken(1, epoch=9, seconds=up)], bounds, at(up))
    assert short(waiting(file)) == left


def test_losses_that_can_not_be_merged_have_a_bound() -> None:
    """The oldest become one of unknown size."""
    file = SpoolFile(host_id(HOST), None)
    for sequence in range(1, 2 * MAX_LOSSES + 41, 2):  # every other one was rejected
        file.append([taken(sequence), taken(sequence + 1)], GENEROUS, at(0))
        file.reject(EPOCH, sequence + 1)
    keep(file, 1, 5_000)
    keep(file, 1, 5_001)
    reports = waiting(file)
    losses = [one for one in reports if one.HasField("loss")]
    assert len(losses) <= MAX_LOSSES
    assert file.counts.losses == len(losses)
    (unknown,) = [one for one in losses if not one.loss.first_sequence]
    assert unknown == losses[0]
    assert file.counts.dropped == 2 * (MAX_LOSSES + 20) + 1


def test_a_page_is_bounded_by_bytes_too(file: SpoolFile) -> None:
    """Little is read into memory at a time."""
    reports = [taken(sequence) for sequence in range(1, 11)]
    for one, _ in reports:
        one.sample.processes.add(name="x" * 100_000)
    file.append(reports, GENEROUS, at(0))
    assert len(file.read(EPOCH, 0)) == 3


def test_what_is_taken_over_comes_behind_and_is_counted(file: SpoolFile) -> None:
    """As when a disk that was full has room again."""
    fill(file, 4)
    memory = SpoolFile(host_id(HOST), None)
    fill(memory, 8, first=5)
    memory.reject(EPOCH, 6)
    file.take_over(memory, GENEROUS, at(0))
    assert short(waiting(file)) == [1, 2, 3, 4, 5, 7, 8]
    assert file.counts == file._rows.count() == Counts(7, file.counts.bytes, 0, 1)


def test_the_oldest_epoch_is_first_whatever_its_number(file: SpoolFile) -> None:
    """Numbers of epochs are drawn."""
    for epoch in (9, 3, 5):
        fill(file, 2, epoch=epoch)
    file.acknowledge(3, 1)
    assert file.positions() == [Position(9, 0), Position(3, 1), Position(5, 0)]


def test_epochs_are_never_0_and_fit_into_63_bits() -> None:
    drawn = {new_epoch() for _ in range(1_000)}
    assert len(drawn) == 1_000
    assert all(0 < epoch < 1 << 63 for epoch in drawn)


def damage(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.executescript(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 99; PRAGMA application_id = 1",
        "PRAGMA application_id = 1",
        "DROP TABLE report",
        "DROP TABLE dropped",
        "UPDATE dropped SET reports = 'many'",
        "UPDATE dropped SET reports = -1",
    ],
)
def test_a_file_that_is_not_as_it_was_made_is_not_opened(file: SpoolFile, path: Path, statement: str) -> None:
    """Which says why."""
    fill(file, 3)
    file.close()
    damage(path, statement)
    with pytest.raises(Corrupt, match=r".+") as caught:
        SpoolFile(host_id(HOST), path)
    assert not isinstance(caught.value, LaterVersion)


def test_a_file_of_a_later_version_is_not_opened(file: SpoolFile, path: Path) -> None:
    """It is not said to be damaged."""
    fill(file, 3)
    file.close()
    damage(path, "PRAGMA user_version = 2")
    with pytest.raises(LaterVersion, match="of version 2, and this agent knows none later than 1"):
        SpoolFile(host_id(HOST), path)


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        ("UPDATE report SET body = x'00' WHERE sequence = 2", waiting),
        ("UPDATE report SET sequence = 9 WHERE sequence = 2", waiting),
        ("UPDATE report SET sequence = 'two' WHERE sequence = 2", waiting),
        ("UPDATE report SET epoch = 'seven' WHERE sequence = 2", waiting),
        ("UPDATE report SET first = 'one' WHERE sequence = 1", waiting),
        ("UPDATE report SET since_boot = 'long ago' WHERE sequence = 1", lambda file: keep(file, 1, 4)),
        ("UPDATE report SET taken = 1e300 WHERE sequence = 3", lambda file: keep(file, 1, 4)),
        ("UPDATE report SET boot_id = x'ff' WHERE sequence = 3", lambda file: keep(file, 1, 4)),
    ],
)
def test_what_is_not_what_was_written_is_found_as_it_is_used(
    file: SpoolFile, path: Path, statement: str, use: Callable[[SpoolFile], object]
) -> None:
    """Never given out, and no error but that."""
    fill(file, 3)
    file.close()
    damage(path, statement)
    damaged = SpoolFile(host_id(HOST), path)
    with pytest.raises(Corrupt, match=r".+"):
        use(damaged)
    damaged.close()
