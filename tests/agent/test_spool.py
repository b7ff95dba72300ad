"""The queue of reports between the tick that made them and the aggregator that has them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_agent import spool_bounds
from loiter_agent.spool import Spool
from support.full_disks import leave_no_room

HOST_ID = "ab" * 16
BOOT_ID = "8f0b6f6e-5d0e-4f6b-9d3c-0a1b2c3d4e5f"
OTHER_BOOT_ID = "00000000-5d0e-4f6b-9d3c-0a1b2c3d4e5f"
DAY = 86_400.0
TIMEOUT_SECONDS = 60


def spool(
    directory: Path,
    max_bytes: int = 64_000_000,
    max_age: float = DAY,
    boot_id: str = BOOT_ID,
) -> Spool:
    return Spool(HOST_ID, boot_id, directory, max_bytes, max_age)


def sample(number: int = 0, size: int = 0) -> sample_pb2.Sample:
    """One that can be told from others, larger by a size."""
    made = sample_pb2.Sample(host_fds=sample_pb2.HostFileDescriptors(allocated=number))
    if size:
        made.collectors.add(name="x" * size)
    return made


async def add(one: Spool, *numbers: int, size: int = 0, since_boot: float = 100.0) -> None:
    for number in numbers:
        await one.append(sample(number, size), since_boot)


async def waiting(one: Spool, epoch: int) -> list[pb.Report]:
    """What of an epoch would be sent if everything were sent now."""
    found: list[pb.Report] = []
    while page := await one.read(epoch, found[-1].sequence if found else 0):
        found += page
    return found


async def everything(one: Spool) -> list[pb.Report]:
    """All that waits, the backlog first."""
    lanes = await one.begin()
    found: list[pb.Report] = []
    for position in (*lanes.backlog, lanes.live):
        found += await waiting(one, position.epoch)
    return found


def numbers(reports: list[pb.Report]) -> list[int]:
    """The numbers of the samples among reports."""
    return [report.sample.host_fds.allocated for report in reports if report.HasField("sample")]


def lost(reports: list[pb.Report]) -> list[tuple[int, int, int]]:
    """First and last sequence and reason of the losses among reports."""
    return [
        (report.loss.first_sequence, report.sequence, report.loss.reason)
        for report in reports
        if report.HasField("loss")
    ]


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene, which must end by itself."""

    async def timed() -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await scene()

    asyncio.run(timed())


def test_reports_are_numbered_from_one_in_their_order(tmp_path: Path) -> None:
    """Each carries what names it for all time, and when it was taken by a clock that never steps."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 7, 8, 9, since_boot=12.5)
        reports = await everything(one)
        assert [report.sequence for report in reports] == [1, 2, 3]
        assert numbers(reports) == [7, 8, 9]
        for report in reports:
            assert (report.host_id, report.boot_id, report.spool_epoch) == (HOST_ID, BOOT_ID, one.instance)
            assert report.taken_since_boot.ToMilliseconds() == 12_500
        await one.close()

    play(scene)


def test_what_is_not_acknowledged_is_there_when_it_is_opened_again_under_a_new_epoch(tmp_path: Path) -> None:
    """The epochs of old come first; reports carry the boot they were taken in."""

    async def scene() -> None:
        first = spool(tmp_path)
        await add(first, 1, 2, 3)
        await first.acknowledge(first.instance, 1)
        await first.close()
        second = spool(tmp_path, boot_id=OTHER_BOOT_ID)
        assert len(second) == 2
        assert second.instance != first.instance
        await add(second, 4)
        lanes = await second.begin()
        assert (lanes.live.epoch, lanes.live.sequence) == (second.instance, 0)
        assert [(one.epoch, one.sequence) for one in lanes.backlog] == [(first.instance, 1)]
        reports = await everything(second)
        assert numbers(reports) == [2, 3, 4]
        assert [report.boot_id for report in reports] == [BOOT_ID, BOOT_ID, OTHER_BOOT_ID]
        assert [report.sequence for report in reports] == [2, 3, 1]
        await second.close()

    play(scene)


def test_epochs_never_meet(tmp_path: Path) -> None:
    """Not 0, which stands for none; of 63 bits."""

    async def scene() -> None:
        epochs = set()
        for _ in range(20):
            one = spool(tmp_path)
            epochs.add(one.instance)
            await one.close()
        assert len(epochs) == 20
        assert all(0 < epoch < 2**63 for epoch in epochs)

    play(scene)


def test_a_full_spool_drops_the_oldest_and_one_loss_takes_their_place(tmp_path: Path) -> None:
    """What is dropped is counted for good, and the numbers go on."""

    async def scene() -> None:
        one = spool(tmp_path, max_bytes=10_000)
        await add(one, *range(1, 31), size=900)
        reports = await everything(one)
        kept = numbers(reports)
        assert kept == list(range(31 - len(kept), 31))
        assert 8 <= len(kept) <= 10
        assert lost(reports) == [(1, 30 - len(kept), pb.LOSS_REASON_SPOOL_FULL)]
        assert [report.sequence for report in reports] == [30 - len(kept), *kept]
        assert one.dropped == 30 - len(kept)
        assert one.status().waiting_bytes <= 10_000
        assert one.status().waiting_reports == len(one) == len(kept) + 1
        await one.close()
        again = spool(tmp_path)
        assert again.dropped == 30 - len(kept)
        await again.close()

    play(scene)


def test_a_loss_tells_the_times_of_its_first_and_last_sample(tmp_path: Path) -> None:
    """By the agent's clock."""

    async def scene() -> None:
        one = spool(tmp_path, max_bytes=5_000)
        for second in range(20):
            taken = sample(second, 900)
            taken.sample_time.seconds = 1_800_000_000 + second
            await one.append(taken, float(second))
        loss = (await everything(one))[0]
        assert loss.loss.first_sample_time.seconds == 1_800_000_000
        assert loss.loss.last_sample_time.seconds == 1_800_000_000 + loss.sequence - 1
        await one.close()

    play(scene)


def test_a_lower_bound_takes_effect_with_the_next_report(tmp_path: Path) -> None:
    """As after a reload of the settings."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, *range(1, 301), size=900)
        assert one.dropped == 0
        one.configure(10_000, DAY)
        await add(one, 301, size=900)
        assert one.status().waiting_bytes <= 10_000
        assert numbers(await everything(one))[-1] == 301
        assert one.dropped == 301 - (len(one) - 1)
        await one.close()

    play(scene)


def test_what_is_too_old_is_dropped_by_the_clock_that_never_steps(tmp_path: Path) -> None:
    """The wall clock may have said what it liked meanwhile."""

    async def scene() -> None:
        one = spool(tmp_path, max_age=60)
        for number, (since_boot, clock) in enumerate(((100, 0), (130, 1_900_000_000), (160, 1_700_000_000)), start=1):
            taken = sample(number)
            taken.sample_time.seconds = clock
            await one.append(taken, since_boot)
        assert numbers(await everything(one)) == [1, 2, 3]
        await add(one, 4, since_boot=191)
        reports = await everything(one)
        assert numbers(reports) == [3, 4]
        assert lost(reports) == [(1, 2, pb.LOSS_REASON_TOO_OLD)]
        await one.close()

    play(scene)


def test_what_was_taken_with_a_clock_that_was_not_set_survives_a_reboot(tmp_path: Path) -> None:
    """A clock at 1970 until the network is there: ten reports, and the right time a minute later."""

    async def scene() -> None:
        one = spool(tmp_path, max_age=600)
        for second in range(10):
            taken = sample(second)
            taken.sample_time.seconds = second
            await one.append(taken, 20.0 + second)
        await one.close()
        one = spool(tmp_path, max_age=600, boot_id=OTHER_BOOT_ID)
        await add(one, 10, since_boot=60)
        assert numbers(await everything(one)) == list(range(11))
        await add(one, 11, since_boot=601)
        reports = await everything(one)
        assert numbers(reports) == [10, 11]
        assert lost(reports) == [(1, 10, pb.LOSS_REASON_TOO_OLD)]
        await one.close()

    play(scene)


def test_an_acknowledgement_lets_go_of_all_up_to_it(tmp_path: Path) -> None:
    """Acknowledged is not dropped; one that comes again changes nothing."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1, 2, 3, 4)
        for _ in range(2):
            await one.acknowledge(one.instance, 3)
            assert numbers(await everything(one)) == [4]
        assert (len(one), one.dropped) == (1, 0)
        assert (await one.begin()).live.sequence == 3
        await one.close()

    play(scene)


def test_a_rejection_drops_that_report_alone(tmp_path: Path) -> None:
    """It is counted once, even if it is rejected twice, and is no loss to tell: the aggregator knows."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1, 2, 3)
        for _ in range(2):
            await one.reject(one.instance, 2)
        reports = await everything(one)
        assert numbers(reports) == [1, 3]
        assert lost(reports) == []
        assert (len(one), one.dropped) == (2, 1)
        await one.close()

    play(scene)


def test_a_loss_does_not_reach_over_what_was_rejected(tmp_path: Path) -> None:
    """That one is counted by who rejected it, and must not be counted twice."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1, 2, 3, 4)
        await one.reject(one.instance, 2)
        one.configure(3_000, DAY)
        await add(one, 5, size=2_650)
        first, second = lost(await everything(one))
        assert first[:2] == (1, 1)
        assert second[0] == 3
        await one.close()

    play(scene)


def test_of_a_loss_that_grew_while_it_was_sent_the_rest_stays(tmp_path: Path) -> None:
    """What was acknowledged is not lost again."""

    async def scene() -> None:
        one = spool(tmp_path, max_bytes=5_000)
        await add(one, *range(1, 11), size=900)
        (first,) = lost(await everything(one))
        await add(one, *range(11, 21), size=900)
        await one.acknowledge(one.instance, first[1])
        (second,) = lost(await everything(one))
        assert second[0] == first[1] + 1
        assert second[1] > first[1]
        # Nor is what was sent behind the loss's beginning, on the same stream.
        (loss, *_) = await one.read(one.instance, second[0])
        assert loss.loss.first_sequence == second[0] + 1
        await one.close()

    play(scene)


def test_answers_about_what_is_not_there_change_nothing(tmp_path: Path) -> None:
    """Not even numbers that no database holds."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1, 2, 3)
        await one.acknowledge(one.instance ^ 2, 3)
        await one.reject(one.instance ^ 2, 1)
        await one.reject(0, 0)
        await one.acknowledge(2**64 - 1, 2**64 - 1)
        await one.reject(one.instance, 2**64 - 1)
        assert (len(one), one.dropped) == (3, 0)
        await one.close()

    play(scene)
    assert list(tmp_path.glob("*corrupt*")) == []


def test_where_many_reports_wait_new_ones_go_into_a_new_epoch(tmp_path: Path) -> None:
    """They are then sent beside the old ones. Where few wait, they follow them."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, *range(16))
        assert (await one.begin()).live.epoch == one.instance
        await add(one, 16)
        lanes = await one.begin()
        assert lanes.live.epoch != one.instance
        assert lanes.live.sequence == 0
        assert [position.epoch for position in lanes.backlog] == [one.instance]
        await add(one, 17)
        assert numbers(await waiting(one, lanes.live.epoch)) == [17]
        assert await one.begin() == lanes
        await one.close()

    play(scene)


def test_who_waits_is_given_the_next_report(tmp_path: Path) -> None:
    """The one appended after the wait began; of the next epoch, if that has begun."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1)
        reading = asyncio.create_task(one.read_live(one.instance, 1))
        await asyncio.sleep(0)
        await add(one, 2)
        assert numbers(await reading) == [2]
        await add(one, *range(3, 30))
        live = (await one.begin()).live.epoch
        reading = asyncio.create_task(one.read_live(one.instance, 29))
        await asyncio.sleep(0)
        await add(one, 30)
        (report,) = await reading
        assert (report.spool_epoch, report.sequence) == (live, 1)
        await one.close()

    play(scene)


def test_drained_returns_with_the_last_acknowledgement(tmp_path: Path) -> None:
    """Not before; and at once where nothing waits."""

    async def scene() -> None:
        one = spool(tmp_path)
        await one.drained()
        await add(one, 1, 2)
        draining = asyncio.create_task(one.drained())
        await one.acknowledge(one.instance, 1)
        assert not draining.done()
        await one.reject(one.instance, 2)
        await draining
        await one.close()

    play(scene)


def test_a_closed_spool_may_be_closed_again_and_takes_nothing_more(tmp_path: Path) -> None:
    """And lets another have its directory."""

    async def scene() -> None:
        one = spool(tmp_path)
        await one.close()
        await one.close()
        with pytest.raises(ValueError, match="closed"):
            await add(one, 1)
        await spool(tmp_path).close()

    play(scene)


def test_a_second_agent_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    """The first goes on undisturbed."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1)
        with pytest.raises(BlockingIOError, match="in use by another agent") as refusal:
            spool(tmp_path)
        assert str(tmp_path) in str(refusal.value)
        await add(one, 2)
        assert numbers(await everything(one)) == [1, 2]
        await one.close()

    play(scene)


def test_nobody_else_may_read_its_files(tmp_path: Path) -> None:
    """They tell what runs on the host."""

    async def scene() -> None:
        directory = tmp_path / "state" / "loiter"
        one = spool(directory)
        await add(one, 1)
        assert {file.name for file in directory.iterdir()} >= {"spool.db", "spool.db-wal"}
        assert all(file.stat().st_mode & 0o777 == 0o600 for file in directory.iterdir())
        assert directory.stat().st_mode & 0o777 == 0o700
        await one.close()

    play(scene)


def test_room_that_is_no_longer_needed_goes_back_to_the_disk(tmp_path: Path) -> None:
    """A long outage leaves no large file behind."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, *range(1, 201), size=100_000)
        assert (tmp_path / "spool.db").stat().st_size > 15_000_000
        for sequence in range(1, 201):
            await one.acknowledge(one.instance, sequence)
        await one.close()

    play(scene)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3_000_000


def test_losses_have_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, the oldest that stand apart become one of unknown size; what was dropped stays counted."""
    monkeypatch.setattr(spool_bounds, "MAX_LOSSES", 10)

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, *range(1, 61))
        for sequence in range(2, 61, 2):
            await one.reject(one.instance, sequence)
        for number in (61, 62):
            one.configure(3_000, DAY)
            await add(one, number, size=2_900)
            reports = await everything(one)
            unknown = [report for report in reports if report.HasField("loss") and not report.loss.first_sequence]
            assert len(unknown) == 1
            assert unknown[0].sequence == 1
            assert unknown[0].spool_epoch != one.instance
            assert len(lost(reports)) == 10
            assert len(reports) == len(one)
            assert one.dropped == number
        await one.close()

    play(scene)


# Corrupt files


def test_a_file_of_another_kind_is_set_aside_and_sampling_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One clear line, and a loss of unknown size, which is sent like a report."""
    (tmp_path / "spool.db").write_bytes(b"not a database at all" * 100)

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1)
        reports = await everything(one)
        assert lost(reports) == [(0, 1, pb.LOSS_REASON_SPOOL_CORRUPT)]
        assert [report.sequence for report in reports] == [1, 2]
        assert numbers(reports) == [1]
        assert one.dropped == 0
        await one.close()

    with caplog.at_level(logging.INFO):
        play(scene)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "the spool can not be read any more (file is not a database): it is kept as" in record.getMessage()
    (aside,) = tmp_path.glob("spool.db.corrupt-*")
    assert aside.read_bytes().startswith(b"not a database")


def change(file: Path, statement: str) -> None:
    database = sqlite3.connect(file)
    database.execute(statement)
    database.commit()
    database.close()


def test_a_database_of_others_is_set_aside(tmp_path: Path) -> None:
    """It is not known what is in it."""

    async def scene() -> None:
        await spool(tmp_path).close()
        change(tmp_path / "spool.db", "PRAGMA application_id = 7")
        one = spool(tmp_path)
        assert lost(await everything(one)) == [(0, 1, pb.LOSS_REASON_SPOOL_CORRUPT)]
        await one.close()

    play(scene)
    assert len(list(tmp_path.glob("spool.db.corrupt-*"))) == 1


def put_back(directory: Path, back: Path) -> None:
    """Has what was set aside of version 2 be the spool of a directory."""
    (aside,) = directory.glob("spool.db.version-2-*Z")
    back.mkdir()
    aside.rename(back / "spool.db")


def test_what_a_later_agent_left_is_set_aside_as_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after a downgrade: whole, for that agent to read, and not said to be corrupt."""

    async def scene() -> None:
        later = spool(tmp_path)
        await add(later, 1, 2, 3)
        await later.close()
        change(tmp_path / "spool.db", "PRAGMA user_version = 2")
        one = spool(tmp_path)
        await add(one, 4)
        reports = await everything(one)
        assert [first for first, _, _ in lost(reports)] == [0]
        assert numbers(reports) == [4]
        await one.close()
        put_back(tmp_path, tmp_path / "back")
        change(tmp_path / "back/spool.db", "PRAGMA user_version = 1")
        again = spool(tmp_path / "back")
        assert numbers(await everything(again)) == [1, 2, 3]
        await again.close()

    with caplog.at_level(logging.INFO):
        play(scene)
    (record,) = caplog.records
    said = record.getMessage()
    assert "the spool was made by a later agent: it is of version 2, and this agent knows none later than 1" in said
    assert f"it is kept as {tmp_path / 'spool.db.version-2-'}" in said
    assert "corrupt" not in said
    assert "can not be read" not in said
    assert list(tmp_path.glob("*corrupt*")) == []


def test_only_the_last_few_that_were_set_aside_are_kept(tmp_path: Path) -> None:
    """They must not fill the disk; corrupt ones leave those of later agents alone."""

    async def scene() -> None:
        for version in (9, 10, 11, 12, 13):
            await spool(tmp_path).close()
            change(tmp_path / "spool.db", f"PRAGMA user_version = {version}")
        for number in range(5):
            await spool(tmp_path).close()
            (tmp_path / "spool.db").write_bytes(b"%d is no database" % number * 500)
        await spool(tmp_path).close()

    play(scene)
    assert sorted(file.read_bytes()[:1] for file in tmp_path.glob("spool.db.corrupt-*")) == [b"2", b"3", b"4"]
    versions = {int(file.name.split("-")[1]) for file in tmp_path.glob("spool.db.version-*")}
    assert versions == {11, 12, 13}


def damage(file: Path, rng: random.Random) -> None:
    """Does to a file what disks do: bytes that change, a page of zeros, an end that is missing."""
    content = bytearray(file.read_bytes())
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 10, 200))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 1:
        page = rng.randrange(len(content) // 4_096) * 4_096
        content[page : page + 4_096] = bytes(4_096)
    elif kind == 2:
        del content[rng.randrange(len(content)) :]
    else:
        begin = rng.randrange(len(content))
        content[begin : begin + 3_000] = rng.randbytes(len(content[begin : begin + 3_000]))
    with file.open("r+b") as open_file:  # the same file, that may be open
        open_file.write(content)
        open_file.truncate(len(content))


@pytest.fixture(scope="module")
def left_by_kill(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[int, int], bytes]]:
    """The files of a spool that was never closed, a part of them in the log, and its reports."""
    directory = tmp_path_factory.mktemp("spool")
    copy = tmp_path_factory.mktemp("left") / "state"
    sound = {}

    async def scene() -> None:
        one = spool(directory)
        await add(one, *range(1, 51), size=100)
        await add(one, *range(51, 171), size=5_000)
        for report in await waiting(one, one.instance):
            sound[(report.spool_epoch, report.sequence)] = report.SerializeToString()
        shutil.copytree(directory, copy)
        await one.close()

    play(scene)
    assert (copy / "spool.db").stat().st_size > 200_000
    assert (copy / "spool.db-wal").stat().st_size > 200_000
    return copy, sound


@pytest.mark.parametrize("seed", range(40))
def test_whatever_became_of_the_file_no_report_is_given_out_that_was_not_put_in(
    tmp_path: Path, left_by_kill: tuple[Path, dict[tuple[int, int], bytes]], seed: int
) -> None:
    """Nor does anything fail: it is opened, read, acknowledged and appended to. Half the time it is open meanwhile."""
    rng = random.Random(seed)
    copy, sound = left_by_kill
    ((epoch, _), *_) = sound
    directory = tmp_path / "state"
    shutil.copytree(copy, directory)

    async def scene() -> None:
        one = spool(directory) if seed % 2 else None
        for file in (directory / "spool.db", directory / "spool.db-wal"):
            if rng.random() < 0.7 and file.stat().st_size:
                damage(file, rng)
        one = one or spool(directory)
        for number in range(1_000, 1_003):
            for report in await waiting(one, epoch):
                assert sound[(epoch, report.sequence)] == report.SerializeToString()
            await one.acknowledge(epoch, rng.randrange(150))
            await add(one, number)
            assert number in numbers(await everything(one))
        await one.close()

    play(scene)


# A disk that can not be written to


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], timeout=10, check=True)


def remount(disk: Path, how: str) -> None:
    """Makes a disk one that may only be read, or no longer."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True, timeout=10)


def test_where_the_disk_is_full_reports_are_kept_in_memory_until_it_has_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """None is lost or out of order, acknowledgements hold, and each turn is said once."""

    async def scene() -> None:
        directory = small_disk / "state"
        one = spool(directory)
        await add(one, *range(1, 6), size=20_000)
        filler = leave_no_room(small_disk)
        await add(one, *range(6, 26), size=20_000)
        assert one.status().in_memory
        assert len(one) == 25
        assert numbers(await waiting(one, one.instance)) == list(range(1, 26))
        await one.acknowledge(one.instance, 3)
        await one.reject(one.instance, 8)
        await one.acknowledge(one.instance, 7)
        assert (len(one), one.dropped) == (17, 1)
        assert numbers(await waiting(one, one.instance)) == list(range(9, 26))
        filler.unlink()
        await add(one, 26, size=20_000)
        assert not one.status().in_memory
        assert numbers(await waiting(one, one.instance)) == list(range(9, 27))
        assert [report.sequence for report in await waiting(one, one.instance)] == list(range(9, 27))
        assert (len(one), one.dropped) == (18, 1)
        await one.close()
        again = spool(directory)
        assert numbers(await everything(again)) == list(range(9, 27))
        assert again.dropped == 1
        await again.close()

    with caplog.at_level(logging.INFO):
        play(scene)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "spool.db can not be written (database or disk is full): reports are kept in memory" in messages[0]
    assert "is written again: 17 reports were moved to it from memory" in messages[1]


def test_memory_has_a_bound_and_what_goes_beyond_is_counted(small_disk: Path) -> None:
    """1,000 reports; the oldest of them goes first."""

    async def scene() -> None:
        one = spool(small_disk)
        await add(one, 1)
        filler = leave_no_room(small_disk)
        await add(one, 2, size=50_000)
        assert one.status().in_memory
        await add(one, *range(3, 1_103))
        assert one.dropped == 101
        reports = await waiting(one, one.instance)
        assert lost(reports) == [(2, 102, pb.LOSS_REASON_SPOOL_FULL)]
        assert numbers(reports) == [1, *range(103, 1_103)]
        filler.unlink()
        await add(one, 1_103)
        assert not one.status().in_memory
        reports = await waiting(one, one.instance)
        assert lost(reports) == [(2, 102, pb.LOSS_REASON_SPOOL_FULL)]
        assert numbers(reports) == [1, *range(103, 1_104)]
        assert one.dropped == 101
        await one.close()

    play(scene)


def test_a_directory_that_can_not_be_made_is_no_reason_not_to_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reports are kept in memory, and go to the disk once it can be made; what another agent left there comes first."""

    async def scene() -> None:
        directory = tmp_path / "state"
        former = spool(tmp_path / "former")
        await add(former, 1, 2)
        await former.close()
        directory.write_text("in the way")
        one = spool(directory)
        await add(one, 3, 4)
        assert one.status().in_memory
        assert numbers(await everything(one)) == [3, 4]
        directory.unlink()
        (tmp_path / "former").rename(directory)
        await add(one, 5)
        assert not one.status().in_memory
        assert numbers(await everything(one)) == [1, 2, 3, 4, 5]
        await one.close()

    with caplog.at_level(logging.INFO):
        play(scene)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "can not be written (File exists)" in messages[0]


def test_a_corrupt_file_that_can_not_be_set_aside_is_no_reason_not_to_sample(small_disk: Path) -> None:
    """On a disk that may only be read. Nothing is lost but what was in it, once it can be written again."""

    async def scene() -> None:
        (small_disk / "spool.lock").touch()
        (small_disk / "spool.db").write_bytes(b"no database" * 1_000)
        remount(small_disk, "ro")
        one = spool(small_disk)
        await add(one, 1, 2)
        assert one.status().in_memory
        assert numbers(await everything(one)) == [1, 2]
        remount(small_disk, "rw")
        await add(one, 3)
        await add(one, 4)
        assert not one.status().in_memory
        reports = await everything(one)
        assert sorted(numbers(reports)) == [1, 2, 3, 4]
        assert [first for first, _, _ in lost(reports)] == [0]
        await one.close()

    play(scene)


# kill -9

APPENDER = """
import asyncio, sys
from pathlib import Path
from loiter.v1 import sample_pb2
from loiter_agent.spool import Spool

async def main():
    spool = Spool("ab" * 16, "boot", Path(sys.argv[1]), 64_000_000, 86_400.0)
    number = 0
    while True:
        number += 1
        sample = sample_pb2.Sample(host_fds=sample_pb2.HostFileDescriptors(allocated=number))
        sample.collectors.add(name="x" * (number * 97 % 5_000))
        await spool.append(sample, 1.0)
        print("=", spool.instance, number, flush=True)
        if number % 7 == 0:
            print("-", spool.instance, number - 3, flush=True)
            await spool.acknowledge(spool.instance, number - 3)

asyncio.run(main())
"""


def test_what_was_written_is_there_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Six times, each on what the one before has left; every report is there once, and is the one that was written."""
    rng = random.Random(4)
    written: set[tuple[int, int]] = set()
    given_up: dict[int, int] = {}
    everywhere: set[int] = set()
    for _ in range(6):
        command = [sys.executable, "-c", APPENDER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(rng.randrange(1, 200)):
                note(child.stdout.readline(), written, given_up)
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                note(line, written, given_up)
            assert child.wait(10) == -signal.SIGKILL

        async def look() -> None:
            one = spool(tmp_path)
            reports = await everything(one)
            found = [(report.spool_epoch, report.sequence) for report in reports]
            assert len(found) == len(set(found)) == len(one)
            expected = {(epoch, number) for epoch, number in written if number > given_up.get(epoch, 0)}
            assert expected <= set(found)
            # At most what was written and not yet said, and what was acknowledged and not yet deleted.
            assert {epoch for epoch, _ in set(found) - expected} <= {epoch for epoch, _ in written} | everywhere
            assert all(report.sample.host_fds.allocated == report.sequence for report in reports)
            assert one.dropped == 0
            everywhere.add(one.instance)
            await one.close()

        play(look)
    assert len({epoch for epoch, _ in written}) >= 5
    assert list(tmp_path.glob("*corrupt*")) == []


def note(line: str, written: set[tuple[int, int]], given_up: dict[int, int]) -> None:
    """Takes down what the appender says. The line it was killed in may be cut short."""
    kind, *figures = line.split()
    if not line.endswith("\n") or len(figures) != 2:
        return
    epoch, number = map(int, figures)
    if kind == "=":
        written.add((epoch, number))
    else:
        given_up[epoch] = number


def test_what_is_only_in_memory_ends_with_the_agent_and_the_rest_does_not(small_disk: Path, tmp_path: Path) -> None:
    """As the module says."""

    async def scene() -> None:
        one = spool(small_disk)
        await add(one, 1, 2)
        leave_no_room(small_disk)
        await add(one, 3, size=100_000)
        assert one.status().in_memory
        copy = tmp_path / "copy"
        shutil.copytree(small_disk, copy, ignore=shutil.ignore_patterns("rest"))
        again = spool(copy)
        assert numbers(await everything(again)) == [1, 2]
        await again.close()
        await one.close()

    play(scene)


# A file that is gone


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_while_it_is_in_use_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    """What waits in it is moved to a new one, and another agent is kept out of that."""
    directory = tmp_path / "state"

    async def scene() -> None:
        one = spool(directory)
        await add(one, 1, 2)
        shutil.rmtree(directory)
        if replaced:
            directory.mkdir()
            (directory / "spool.db").write_bytes(b"")
        await add(one, 3)
        assert numbers(await everything(one)) == [1, 2, 3]
        assert not one.status().in_memory
        with pytest.raises(BlockingIOError):
            spool(directory)
        await one.close()
        second = spool(directory)
        assert numbers(await everything(second)) == [1, 2, 3]
        await second.close()

    play(scene)
    assert "was removed or replaced while it was in use" in caplog.text


@pytest.mark.parametrize("missing", [False, True])
def test_a_file_that_has_lost_its_content_is_a_loss(tmp_path: Path, missing: bool) -> None:
    """Empty, or gone while the agent was not there: how many reports were in it is not known."""

    async def scene() -> None:
        one = spool(tmp_path)
        await add(one, 1, 2)
        await one.close()
        (tmp_path / "spool.db").unlink()
        if not missing:
            (tmp_path / "spool.db").write_bytes(b"")
        second = spool(tmp_path)
        await add(second, 3)
        reports = await everything(second)
        assert lost(reports) == [(0, 1, pb.LOSS_REASON_SPOOL_CORRUPT)]
        assert numbers(reports) == [3]
        await second.close()

    play(scene)
