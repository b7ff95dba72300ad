"""The page's memory of answers: many who look at one page cost one question."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.access.principal import caller_address
from loiter_aggregator.fleet.errors import NotFound, Overloaded
from loiter_aggregator.store.duckdb_store import StoreError
from loiter_aggregator.web.answer_cache import AnswerCache, Mistake, Seen


@dataclass
class Fleet:
    """Answers when it is let, with how often it was asked; and can fail."""

    asked: int = 0
    failure: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def get_fleet(self, request: pb.GetFleetRequest) -> pb.GetFleetResponse:
        del request
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return pb.GetFleetResponse(aggregator=pb.AggregatorStatus(reports_stored=number))


@dataclass
class Time:
    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def cache_at(time: Time) -> AnswerCache:
    return AnswerCache(lambda: round(time.seconds * 1_000), time)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10))


def number(seen: Seen[pb.GetFleetResponse]) -> int:
    return seen.need().aggregator.reports_stored


ASK = pb.GetFleetRequest()


def test_many_who_ask_at_once_cost_one_question() -> None:
    """And a fresh answer none; another question is another answer."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        fleet.gate.set()
        seen = await asyncio.gather(*(answers.ask(fleet.get_fleet, ASK) for _ in range(50)))
        time.seconds += 4
        seen.append(await answers.ask(fleet.get_fleet, ASK))
        assert {number(one) for one in seen} == {1}
        assert (seen[-1].at, seen[-1].age, seen[-1].stale) == (1_000_000, 4.0, False)
        assert number(await answers.ask(fleet.get_fleet, pb.GetFleetRequest(labels={"role": "web"}))) == 2

    run(scenario())


def test_a_slow_first_answer_is_not_waited_for_long() -> None:
    """The page is sent without; the answer is there when it is looked for again."""

    async def scenario() -> None:
        fleet, answers = Fleet(), cache_at(Time())
        first = await answers.ask(fleet.get_fleet, ASK, wait=0.01)
        assert (first.loading, first.answer, first.at, first.age) == (True, None, None, None)
        with pytest.raises(Overloaded):
            first.need()
        fleet.gate.set()
        assert number(await answers.ask(fleet.get_fleet, ASK)) == 1
        assert fleet.asked == 1

    run(scenario())


def test_an_old_answer_is_shown_while_a_new_one_is_on_its_way() -> None:
    """With its age, so that who looks is told."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        fleet.gate.set()
        await answers.ask(fleet.get_fleet, ASK)
        time.seconds += 60
        fleet.gate.clear()
        old = await answers.ask(fleet.get_fleet, ASK, wait=0.01)
        assert (number(old), old.age, old.stale) == (1, 60.0, True)
        fleet.gate.set()
        renewed = await answers.ask(fleet.get_fleet, ASK)
        assert (number(renewed), renewed.age, renewed.stale) == (2, 0.0, False)

    run(scenario())


def test_who_downloads_waits_for_a_fresh_answer() -> None:
    """However long it takes."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        fleet.gate.set()
        await answers.ask(fleet.get_fleet, ASK)
        time.seconds += 60
        fleet.gate.clear()
        asyncio.get_running_loop().call_later(0.1, fleet.gate.set)
        assert number(await answers.ask(fleet.get_fleet, ASK, wait=None)) == 2

    run(scenario())


def test_a_failure_keeps_the_last_answer_and_says_what_went_wrong() -> None:
    """Until the next attempt; without an answer of before, needing one raises it."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        fleet.gate.set()
        fleet.failure = NotFound("no such host")
        missing = await answers.ask(fleet.get_fleet, ASK)
        assert not missing.loading
        with pytest.raises(NotFound, match="no such host"):
            missing.need()
        time.seconds += 6
        fleet.failure = None
        assert number(await answers.ask(fleet.get_fleet, ASK)) == 2
        time.seconds += 6
        fleet.failure = Overloaded("too many")
        kept = await answers.ask(fleet.get_fleet, ASK)
        assert (number(kept), str(kept.error), kept.age) == (2, "too many", 6.0)
        assert fleet.asked == 3
        assert (await answers.ask(fleet.get_fleet, ASK)).error is not None
        assert fleet.asked == 3, "a failure is not asked for again at once"

    run(scenario())


@pytest.mark.parametrize("failure", [StoreError("secret path"), ZeroDivisionError("secret path")])
def test_what_is_for_the_log_alone_goes_there_and_nowhere_else(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """What the store says of its files, and mistakes of the program."""

    async def scenario() -> None:
        fleet, answers = Fleet(failure=failure), cache_at(Time())
        fleet.gate.set()
        seen = await answers.ask(fleet.get_fleet, ASK)
        assert isinstance(seen.error, StoreError | Mistake)
        assert "secret" not in str(seen.error)

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert "secret path" in caplog.text
    assert len(caplog.records) == 1


def test_answers_that_nobody_looks_at_are_let_go_and_never_too_many_kept() -> None:
    """By age, by number and by size."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        fleet.gate.set()
        for at in range(700):
            await answers.ask(fleet.get_fleet, pb.GetFleetRequest(labels={"n": str(at)}))
        assert len(answers) == 500
        time.seconds += 301
        await answers.ask(fleet.get_fleet, ASK)
        assert len(answers) == 1

        async def large(request: pb.GetFleetRequest) -> pb.GetFleetResponse:
            del request
            return pb.GetFleetResponse(aggregator=pb.AggregatorStatus(version="x" * 10_000_000))

        for at in range(6):
            await answers.ask(large, pb.GetFleetRequest(labels={"n": str(at)}))
        assert len(answers) <= 4

    run(scenario())


def test_one_who_asks_much_takes_the_place_of_nobody_elses_answers() -> None:
    """Whether answered or turned away; and what others wait for stays."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        waited_for = pb.GetFleetRequest(labels={"waited": "for"})

        async def look(address: str, request: pb.GetFleetRequest) -> Seen[pb.GetFleetResponse]:
            caller_address.set(address)
            return await answers.ask(fleet.get_fleet, request, wait=0.001)

        fleet.gate.set()
        first = number(await asyncio.create_task(look("10.0.0.2", ASK)))
        fleet.gate.clear()
        assert (await asyncio.create_task(look("10.0.0.2", waited_for))).loading
        for at in range(700):
            if at == 100:
                fleet.gate.set()
            if at == 600:
                fleet.gate.clear()
            await asyncio.create_task(look("10.0.0.1", pb.GetFleetRequest(labels={"n": str(at)})))
        assert len(answers) == 500
        assert number(await asyncio.create_task(look("10.0.0.2", ASK))) == first
        assert (await asyncio.create_task(look("10.0.0.2", waited_for))).answer is not None
        await answers.close()

    run(scenario())


def test_closing_lets_go_of_what_is_under_way() -> None:
    """Nothing goes on running."""

    async def scenario() -> None:
        fleet, answers = Fleet(), cache_at(Time())
        before = asyncio.all_tasks()
        await answers.ask(fleet.get_fleet, ASK, wait=0.01)
        assert asyncio.all_tasks() != before
        await answers.close()
        assert asyncio.all_tasks() == before

    run(scenario())


def test_no_more_questions_are_under_way_than_the_fleet_takes() -> None:
    """The rest are told so at once; and of one who looks, fewer. What comes of it is for nobody else."""

    async def scenario() -> None:
        fleet, answers = Fleet(), cache_at(Time())

        async def look(address: str, request: pb.GetFleetRequest) -> Seen[pb.GetFleetResponse]:
            caller_address.set(address)
            return await answers.ask(fleet.get_fleet, request, wait=0)

        async def look_much(address: str) -> Seen[pb.GetFleetResponse]:
            for at in range(64):
                seen = await look(address, pb.GetFleetRequest(labels={address: str(at)}))
                assert seen.loading
            return await look(address, ASK)

        refused = await asyncio.create_task(look_much("10.0.0.1"))
        assert str(refused.error) == "64 of your questions wait for an answer; ask again later"
        other = await asyncio.create_task(look("10.0.0.2", ASK))
        assert other.loading, "it is asked for somebody else"
        assert (await asyncio.create_task(look("10.0.0.1", ASK))).loading, "which costs nothing more"
        for last in (3, 4):
            await asyncio.create_task(look_much(f"10.0.0.{last}"))
        for at in range(200 - 3 * 64 - 1):
            await asyncio.create_task(look(f"10.0.1.{at}", pb.GetFleetRequest(labels={"n": str(at)})))
        full = await asyncio.create_task(look("10.0.2.1", pb.GetFleetRequest(labels={"n": "last"})))
        assert isinstance(full.error, Overloaded)
        assert str(full.error) == "200 questions wait for an answer; ask again later"
        await answers.close()

    run(scenario())


def test_what_costs_much_is_asked_for_seldom() -> None:
    """In proportion to how long it took, ten minutes apart at the most; what costs little is as fresh as it may be."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)

        async def look(took: float) -> int:
            fleet.gate.clear()
            asking = asyncio.create_task(answers.ask(fleet.get_fleet, ASK, fresh=60, rest=49, wait=None))
            for _ in range(3):  # it asks, if it does
                await asyncio.sleep(0)
            time.seconds += took
            fleet.gate.set()
            return number(await asking)

        assert await look(took=2) == 1
        time.seconds += 97
        assert await look(took=0) == 1, "a fiftieth of the time is taken"
        time.seconds += 1
        assert await look(took=0.125) == 2
        time.seconds += 59.75
        assert await look(took=0) == 2
        time.seconds += 0.125
        assert await look(took=100) == 3
        time.seconds += 599
        assert await look(took=0) == 3
        await answers.ask(fleet.get_fleet, pb.GetFleetRequest(labels={"role": "web"}))
        assert await look(took=0) == 3, "nobody who comes back has it built anew before"
        time.seconds += 1
        assert await look(took=0) == 4 + 1

    run(scenario())


def test_a_failure_of_what_is_asked_for_seldom_is_not_kept_for_as_long() -> None:
    """What it costs counts all the same."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet(failure=Overloaded("too many"))
        answers = cache_at(time)
        fleet.gate.set()
        assert (await answers.ask(fleet.get_fleet, ASK, fresh=60)).error is not None
        time.seconds += 5
        fleet.failure = None
        assert number(await answers.ask(fleet.get_fleet, ASK, fresh=60)) == 2

    run(scenario())


def test_an_answer_that_is_not_for_everyone_is_shown_to_whom_it_is_for() -> None:
    """Nor is what went wrong for one shown to another."""

    async def scenario() -> None:
        fleet, answers = Fleet(failure=Overloaded("carol asks too often")), cache_at(Time())
        fleet.gate.set()
        assert (await answers.ask(fleet.get_fleet, ASK, who="carol")).error is not None
        fleet.failure = None
        assert number(await answers.ask(fleet.get_fleet, ASK, who="dave")) == 2
        assert (await answers.ask(fleet.get_fleet, ASK, who="carol")).error is not None
        assert number(await answers.ask(fleet.get_fleet, ASK)) == 3

    run(scenario())


def test_a_costly_renewal_leaves_the_processor_to_whoever_draws_the_older_answer() -> None:
    """It begins a little after the older answer was given."""

    async def scenario() -> None:
        time, fleet = Time(), Fleet()
        answers = cache_at(time)
        waiting = asyncio.create_task(answers.ask(fleet.get_fleet, ASK))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.seconds += 1
        fleet.gate.set()
        assert number(await waiting) == 1
        time.seconds += 60
        assert number(await answers.ask(fleet.get_fleet, ASK)) == 1
        assert fleet.asked == 1
        assert number(await answers.ask(fleet.get_fleet, ASK, wait=None)) == 2

    run(scenario())
