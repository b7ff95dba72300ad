"""The queue of reports between the tick that made them and the aggregator that has them."""

from __future__ import annotations

import asyncio

from loiter.v1 import sample_pb2
from loiter_agent.spool import Spool

HOST_ID = "ab" * 16
BOOT_ID = "8f0b6f6e-5d0e-4f6b-9d3c-0a1b2c3d4e5f"


def spool(reports: int = 0, limit: int = 100) -> Spool:
    made = Spool(HOST_ID, BOOT_ID, limit)
    for _ in range(reports):
        made.append(sample_pb2.Sample())
    return made


async def sequences(one: Spool) -> list[int]:
    """What would be sent if everything were sent now."""
    found: list[int] = []
    while len(found) < len(one):
        found.append((await one.after(found[-1] if found else 0)).sequence)
    return found


def test_reports_are_numbered_from_one_in_their_order() -> None:
    """Each carries what names it for all time."""

    async def scenario() -> None:
        one = spool(3)
        assert await sequences(one) == [1, 2, 3]
        report = await one.after(1)
        assert (report.host_id, report.boot_id, report.spool_epoch) == (HOST_ID, BOOT_ID, one.epoch)

    asyncio.run(scenario())


def test_every_spool_has_an_epoch_of_its_own() -> None:
    """Not 0, which stands for none; of 64 bits, so that two never meet."""
    epochs = {spool().epoch for _ in range(50)}
    assert len(epochs) == 50
    assert all(0 < epoch < 2**63 for epoch in epochs)


def test_a_full_spool_drops_the_oldest_and_counts_it() -> None:
    """Memory is bounded; the numbers go on."""

    async def scenario() -> None:
        one = spool(5, limit=3)
        assert await sequences(one) == [3, 4, 5]
        assert one.dropped == 2

    asyncio.run(scenario())


def test_a_lower_limit_takes_effect_with_the_next_report() -> None:
    """As after a reload of the settings."""
    one = spool(5)
    one.limit = 2
    one.append(sample_pb2.Sample())
    assert (len(one), one.dropped) == (2, 4)


def test_an_acknowledgement_lets_go_of_all_up_to_it() -> None:
    """Acknowledged is not dropped; one that comes again changes nothing."""

    async def scenario() -> None:
        one = spool(4)
        for _ in range(2):
            one.acknowledge(one.epoch, 3)
            assert await sequences(one) == [4]
        assert one.dropped == 0

    asyncio.run(scenario())


def test_a_rejection_drops_that_report_alone() -> None:
    """It is counted once, even if it is rejected twice."""

    async def scenario() -> None:
        one = spool(3)
        for _ in range(2):
            one.reject(one.epoch, 2)
        assert await sequences(one) == [1, 3]
        assert one.dropped == 1

    asyncio.run(scenario())


def test_answers_for_another_epoch_change_nothing() -> None:
    """They are about the reports of an agent that has ended."""
    one = spool(3)
    one.acknowledge(one.epoch + 2, 3)
    one.reject(one.epoch + 2, 1)
    one.reject(0, 0)
    assert (len(one), one.dropped) == (3, 0)


def test_who_waits_is_given_the_next_report() -> None:
    """The one appended after the wait began."""

    async def scenario() -> None:
        one = spool(1)
        waiting = asyncio.create_task(one.after(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        one.append(sample_pb2.Sample())
        assert (await waiting).sequence == 2

    asyncio.run(scenario())


def test_what_was_dropped_while_waiting_is_passed_over() -> None:
    """The oldest that is left comes next."""

    async def scenario() -> None:
        one = spool(1, limit=1)
        one.append(sample_pb2.Sample())
        assert (await one.after(0)).sequence == 2

    asyncio.run(scenario())


def test_drained_returns_with_the_last_acknowledgement() -> None:
    """Not before; and at once where nothing waits. A second waiter is not forgotten."""

    async def scenario() -> None:
        one = spool(2)
        draining = asyncio.create_task(one.drained())
        reading = asyncio.create_task(one.after(2))
        await asyncio.sleep(0)
        one.acknowledge(one.epoch, 1)
        await asyncio.sleep(0)
        assert not draining.done()
        one.reject(one.epoch, 2)
        await draining
        await one.drained()
        one.append(sample_pb2.Sample())
        assert (await reading).sequence == 3

    asyncio.run(scenario())
