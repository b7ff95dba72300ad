"""What is lost is recorded, once: what agents say is, what was rejected, and what did not come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.losses import missing, told
from loiter_aggregator.store.batch import Lost
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, host_key
from support.reports import EPOCH, HOUR, NOW, loss, report, sample

WEB_1 = host_key("web-1")
UNSAID, FULL, REJECTED = pb.LOSS_REASON_UNSPECIFIED, pb.LOSS_REASON_SPOOL_FULL, pb.LOSS_REASON_REJECTED
CORRUPT = pb.LOSS_REASON_SPOOL_CORRUPT


class Stream:
    """An agent's stream: what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Notes it."""
        self.told.append(f"ack {epoch}/{sequence}")

    def reject(self, rejection: pb.ReportRejection) -> None:
        """Notes it."""
        self.told.append(f"reject {rejection.spool_epoch}/{rejection.sequence}")


Sent = pb.Report | pb.ReportRejection


def rejected(sequence: int, epoch: int = EPOCH) -> pb.ReportRejection:
    """The rejection of a report."""
    return pb.ReportRejection(spool_epoch=epoch, sequence=sequence, code=3, reason="it breaks a rule")


async def take(batcher: Batcher, sent: Sent, stream: Stream, settled: Mapping[int, int]) -> None:
    """Takes one thing in."""
    if isinstance(sent, pb.Report):
        await batcher.put(WEB_1, sent, stream, settled=settled)
    else:
        await batcher.put_rejected(WEB_1, sent, stream, settled=settled)


def take_all(store: DuckDbStore, clock: FakeClock, *sent: Sent, settled: Mapping[int, int] | None = None) -> list[str]:
    """Takes things in by one stream, commits, and returns what it was told."""
    stream = Stream()

    async def scenario() -> None:
        batcher = Batcher(store, clock)
        for one in sent:
            await take(batcher, one, stream, settled or {})
        assert stream.told == [], "nothing is said before it is durable"
        await batcher.commit()

    asyncio.run(scenario())
    return stream.told


def lost(store: DuckDbStore) -> list[tuple[int, int | None, int, int]]:
    """The epoch, first and last sequence, and reason of what is recorded as lost."""
    return store.read(
        "SELECT spool_epoch, first_sequence, last_sequence, reason FROM lost_sample ORDER BY spool_epoch, last_sequence"
    )


def accounted(store: DuckDbStore, epoch: int = EPOCH) -> list[int]:
    """Every sequence of an epoch that is stored, and every one that is lost, as often as it is."""
    rows = store.read(f"SELECT sequence FROM host_sample WHERE spool_epoch = {epoch}")
    found = [sequence for (sequence,) in rows]
    for of, first, last, _ in lost(store):
        if of == epoch and first is not None:
            found.extend(range(first, last + 1))
    return sorted(found)


def test_a_loss_that_an_agent_tells_takes_the_place_of_its_samples(store: DuckDbStore, clock: FakeClock) -> None:
    """It is acknowledged like a report, and the mark moves to its end."""
    told_to = take_all(store, clock, report(sequence=1), loss(2, 5), report(sequence=6))
    assert told_to == [f"ack {EPOCH}/6"]
    assert lost(store) == [(EPOCH, 2, 5, FULL)]
    assert accounted(store) == [1, 2, 3, 4, 5, 6]
    assert store.high_water() == {(WEB_1, EPOCH): 6}


def test_a_loss_that_comes_again_is_counted_once(store: DuckDbStore, clock: FakeClock) -> None:
    """In one batch, and after the commit."""
    take_all(store, clock, loss(1, 3), loss(1, 3))
    assert take_all(store, clock, loss(1, 3)) == [f"ack {EPOCH}/3"]
    assert lost(store) == [(EPOCH, 1, 3, FULL)]


def test_a_loss_that_grew_while_it_waited_is_counted_for_what_is_new(store: DuckDbStore, clock: FakeClock) -> None:
    """Some of it was told, and some of it was delivered before the agent dropped it."""
    take_all(store, clock, loss(1, 3), report(sequence=4))
    take_all(store, clock, loss(1, 7), report(sequence=8))
    assert lost(store) == [(EPOCH, 1, 3, FULL), (EPOCH, 5, 7, FULL)]
    assert accounted(store) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_loss_of_unknown_size_stands_for_itself(store: DuckDbStore, clock: FakeClock) -> None:
    """How many it were is unknown, which is not zero."""
    take_all(store, clock, loss(0, 1, CORRUPT), report(sequence=2), settled={EPOCH: 0})
    assert lost(store) == [(EPOCH, None, 1, CORRUPT)]


def test_the_times_of_a_loss_are_set_right_like_those_of_samples(store: DuckDbStore, clock: FakeClock) -> None:
    """And are never later than its arrival."""

    async def scenario() -> None:
        batcher = Batcher(store, clock)
        told_at = loss(1, 2, first_at=NOW - 3 * HOUR, last_at=NOW)
        await batcher.put(WEB_1, told_at, Stream(), skew=HOUR)
        await batcher.put(WEB_1, loss(3, 3), Stream())
        await batcher.commit()
        assert batcher.counters.samples_lost == 3
        assert batcher.counters.stored == 0

    asyncio.run(scenario())
    rows = store.read("SELECT first_ts, last_ts, received FROM lost_sample ORDER BY last_sequence")
    assert rows == [(NOW - 2 * HOUR, NOW, NOW), (None, None, NOW)]


def test_what_does_not_come_is_found_missing(store: DuckDbStore, clock: FakeClock) -> None:
    """Between two reports of an epoch, in a batch and from one to the next."""
    take_all(store, clock, report(sequence=1), report(sequence=3))
    take_all(store, clock, report(sequence=7))
    assert lost(store) == [(EPOCH, 2, 2, UNSAID), (EPOCH, 4, 6, UNSAID)]
    assert accounted(store) == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_is_missing_of_an_epoch_of_which_nothing_is_known(store: DuckDbStore, clock: FakeClock) -> None:
    """Its first reports may be with another aggregator."""
    take_all(store, clock, report(sequence=5))
    assert lost(store) == []


@pytest.mark.parametrize(("settled", "expected"), [(0, [(EPOCH, 1, 4, UNSAID)]), (3, [(EPOCH, 4, 4, UNSAID)]), (4, [])])
def test_the_agent_says_up_to_where_nothing_is_missing(
    store: DuckDbStore, clock: FakeClock, settled: int, expected: list[tuple[int, int, int, int]]
) -> None:
    """What another aggregator has is not lost."""
    take_all(store, clock, report(sequence=5), settled={EPOCH: settled})
    assert lost(store) == expected


def test_what_another_aggregator_took_meanwhile_is_not_missing(store: DuckDbStore, clock: FakeClock) -> None:
    """The agent was here, there, and is here again."""
    take_all(store, clock, report(sequence=1))
    take_all(store, clock, report(sequence=9), report(sequence=11), settled={EPOCH: 8})
    assert lost(store) == [(EPOCH, 10, 10, UNSAID)]


def test_what_is_rejected_is_lost_once_and_said_once_that_is_durable(store: DuckDbStore, clock: FakeClock) -> None:
    """The rejection comes before the acknowledgement of what comes after it."""
    told_to = take_all(store, clock, report(sequence=1), rejected(2), report(sequence=3))
    assert told_to == [f"reject {EPOCH}/2", f"ack {EPOCH}/3"]
    assert take_all(store, clock, rejected(2)) == [f"reject {EPOCH}/2"]
    assert lost(store) == [(EPOCH, 2, 2, REJECTED)]
    assert accounted(store) == [1, 2, 3]


def test_what_is_missing_before_a_rejection_or_a_loss_is_found(store: DuckDbStore, clock: FakeClock) -> None:
    """They are reports like others."""
    take_all(store, clock, report(sequence=1), rejected(3), loss(6, 7), loss(0, 9, CORRUPT), report(sequence=10))
    assert lost(store) == [
        (EPOCH, 2, 2, UNSAID),
        (EPOCH, 3, 3, REJECTED),
        (EPOCH, 4, 5, UNSAID),
        (EPOCH, 6, 7, FULL),
        (EPOCH, 8, 8, UNSAID),
        (EPOCH, None, 9, CORRUPT),
    ]


def test_the_epochs_of_a_host_are_told_apart(store: DuckDbStore, clock: FakeClock) -> None:
    """The lane of what has waited goes on beside that of what is new."""
    take_all(
        store,
        clock,
        report(sequence=40),
        report(sequence=1, epoch=EPOCH + 1),
        report(sequence=41),
        report(sequence=3, epoch=EPOCH + 1),
        settled={EPOCH: 39, EPOCH + 1: 0},
    )
    assert lost(store) == [(EPOCH + 1, 2, 2, UNSAID)]


def test_a_sequence_that_leaps_beyond_reason_is_a_loss_of_unknown_size(store: DuckDbStore, clock: FakeClock) -> None:
    """A hostile agent does not make the sum of what is lost absurd."""
    take_all(store, clock, report(sequence=1), report(sequence=2**62, taken=sample()))
    assert lost(store) == [(EPOCH, None, 2**62 - 1, UNSAID)]


def test_the_numbers_of_a_report_are_those_of_its_row(store: DuckDbStore, clock: FakeClock) -> None:
    """They name it for all time."""
    taken = report(sequence=3, taken=sample(NOW))
    taken.sample.degradation = sample_pb2.DEGRADATION_QUARTER_AS_OFTEN
    taken.sample.interval.seconds = 40
    take_all(store, clock, taken)
    assert store.read("SELECT spool_epoch, sequence, degradation FROM host_sample") == [(EPOCH, 3, 2)]


def test_losses_are_reckoned_without_a_store() -> None:
    """Pure: a report, up to where the epoch is accounted for, and the clocks."""
    assert missing(EPOCH, 1, 0) == missing(EPOCH, 9, None) == []
    assert told(loss(3, 9), 20, 0, NOW) == [Lost(EPOCH, 9, 9, FULL)], "put aside before: a duplicate"
    assert [one.samples for one in told(loss(3, 9), 1, 0, NOW)] == [1, 7]
    assert [one.samples for one in told(loss(0, 9), 8, 0, NOW)] == [0]
