"""The cost budget: what is left out when, and that it does not swing to and fro."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from loiter_agent.budget import Budget, Change, CpuMeter, Usage, stretch
from loiter_agent.sample import Degradation

INTERVAL = 10.0
NONE, HALF, QUARTER, NO_DETAIL, COUNTS_ONLY = Degradation

# Seconds of processor time of one tick at a step, in a tick of that number.
Cost = Callable[[Degradation, int], float]


def simulate(budget: Budget, cost: Cost, ticks: int, first: int = 0) -> list[Degradation]:
    """Runs a host with a cost model, and returns the step of each tick."""
    steps = []
    for number in range(first, first + ticks):
        steps.append(budget.step)
        budget.spend(Usage(cost(budget.step, number), INTERVAL * stretch(budget.step)))
    return steps


def host(full: float, plain: float, counts: float) -> Cost:
    """A host on which a tick costs so much: with everything, without detail, with counts alone."""
    return lambda step, _: counts if step == COUNTS_ONLY else plain if step == NO_DETAIL else full


def changes(steps: list[Degradation]) -> int:
    """How often the step changed."""
    return sum(before != after for before, after in pairwise(steps))


@pytest.mark.parametrize(
    ("full", "plain", "counts", "expected"),
    [
        (0.1, 0.05, 0.01, NONE),
        (0.19, 0.1, 0.01, NONE),
        (0.3, 0.2, 0.1, HALF),
        (0.6, 0.4, 0.1, QUARTER),
        (1.2, 0.7, 0.1, NO_DETAIL),
        (1.6, 1.2, 0.5, COUNTS_ONLY),
        (9.0, 9.0, 9.0, COUNTS_ONLY),
    ],
)
def test_the_first_step_that_keeps_to_the_budget_is_found_and_kept(
    full: float, plain: float, counts: float, expected: Degradation
) -> None:
    """Of 2 % of a processor: one step at a time, and nothing is left out that need not be."""
    steps = simulate(Budget(0.02), host(full, plain, counts), 60)
    assert steps[15:25] == [expected] * 10
    assert all(after - before in (0, 1) for before, after in pairwise(steps[:25]))
    assert max(steps) == expected


def test_the_first_ticks_of_an_agent_may_cost_anything() -> None:
    """Imports, and the first walk over all descriptors: they do not come again."""
    assert set(simulate(Budget(0.02), lambda _, number: 5.0 if number < 3 else 0.05, 100)) == {NONE}


def test_one_dear_tick_is_no_reason_to_leave_things_out() -> None:
    """As after a deployment, where the sockets of the whole host are new."""
    assert set(simulate(Budget(0.02), lambda _, number: 0.4 if number % 20 == 10 else 0.1, 200)) == {NONE}


def test_what_was_left_out_comes_back_step_by_step_when_the_load_is_gone() -> None:
    """And only when it has long been well below."""
    budget = Budget(0.02)
    simulate(budget, host(2.0, 1.5, 0.5), 40)
    assert budget.step == COUNTS_ONLY
    steps = simulate(budget, host(0.1, 0.05, 0.02), 100)
    assert steps[:5] == [COUNTS_ONLY] * 5, "not at once"
    assert [step for step, after in pairwise(steps) if step != after] == [COUNTS_ONLY, NO_DETAIL, QUARTER, HALF]
    assert steps[-1] == NONE


def test_twice_as_many_ticks_are_not_taken_where_that_would_be_too_many() -> None:
    """At 1.1 %, going on at double the pace would be 2.2 %: it is not even tried."""
    steps = simulate(Budget(0.02), host(0.22, 0.2, 0.1), 1_000)
    assert (changes(steps), steps[-1]) == (1, HALF)


def test_detail_that_proves_too_dear_is_tried_ever_more_rarely_but_always_again() -> None:
    """What it would cost is not known without trying; four ticks in a hundred are the price in the end."""
    budget = Budget(0.02)
    steps = simulate(budget, host(1.2, 0.3, 0.1), 3_000)
    assert set(steps[40:]) == {NO_DETAIL, QUARTER}
    late = steps[1_000:]
    assert 0 < sum(step == QUARTER for step in late) <= 0.05 * len(late)
    # The load is gone: it is found out at the next try, and all comes back.
    assert simulate(budget, host(0.1, 0.05, 0.02), 300)[-1] == NONE


@pytest.mark.parametrize("seed", range(20))
def test_a_load_that_varies_does_not_make_it_swing(seed: int) -> None:
    """A third up and down by chance, at any mean: the step changes a few times in a day."""
    chance = random.Random(seed)
    full = 10 ** chance.uniform(-1.3, 0.5)
    steps = simulate(
        Budget(0.02), lambda step, _: host(full, full / 2, full / 9)(step, 0) * chance.uniform(0.7, 1.3), 2_000
    )
    assert changes(steps) <= 60
    assert all(abs(after - before) <= 1 for before, after in pairwise(steps))


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_kept_to_over_a_day_wherever_a_step_exists_that_does(seed: int) -> None:
    """Load that comes and goes in hours, tries included."""
    chance = random.Random(seed)
    levels = [10 ** chance.uniform(-1.3, 0.3) for _ in range(20)]

    def cost(step: Degradation, number: int) -> float:
        full = levels[number // 150 % len(levels)]
        return host(full, full / 3, full / 20)(step, number)

    budget, cpu, elapsed = Budget(0.02), 0.0, 0.0
    for number in range(3_000):
        usage = Usage(cost(budget.step, number), INTERVAL * stretch(budget.step))
        cpu, elapsed = cpu + usage.cpu_seconds, elapsed + usage.elapsed_seconds
        budget.spend(usage)
    assert cpu / elapsed <= 0.021


def test_a_larger_budget_starts_over_with_everything() -> None:
    """It need not be waited for. A smaller one leaves out what it takes."""
    budget = Budget(0.001)
    simulate(budget, host(0.1, 0.08, 0.06), 40)
    assert budget.step == COUNTS_ONLY
    budget.configure(0.0005)
    assert budget.step == COUNTS_ONLY
    budget.configure(0.02)
    assert set(simulate(budget, host(0.1, 0.08, 0.06), 40)) == {NONE}
    budget.configure(0.006)
    assert simulate(budget, host(0.1, 0.08, 0.06), 40)[-1] == HALF


def test_each_change_says_what_is_left_out_and_why() -> None:
    """With the figures, for the log."""
    up = Change(HALF, QUARTER, 0.0312, 3, 0.02)
    assert str(up) == (
        "3.12 % of a processor used over 3 ticks, cpu_budget is 2 %; "
        "left out from now on: every other of the remaining ticks"
    )
    back = Change(COUNTS_ONLY, NO_DETAIL, 0.000_25, 6, 0.001)
    assert str(back) == (
        "0.025 % of a processor used over 6 ticks, cpu_budget is 0.1 %; "
        "no longer left out: processes; sockets are counted by state"
    )


def test_each_change_is_told_once() -> None:
    """A tick that changes nothing says nothing."""
    budget = Budget(0.02)
    told = [budget.spend(Usage(0.3, INTERVAL * stretch(budget.step))) for _ in range(50)]
    assert [change.after for change in told if change] == [HALF]


def test_the_meter_measures_from_call_to_call() -> None:
    """The first has nothing to compare with; where no time has passed, there is no share of it."""
    cpu, clock = iter((1.0, 1.5, 1.5, 2.5)), iter((10.0, 20.0, 20.0, 25.0))
    meter = CpuMeter(lambda: next(cpu), lambda: next(clock))
    assert [meter.lap() for _ in range(4)] == [None, Usage(0.5, 10.0), None, Usage(1.0, 5.0)]
    assert Usage(0.5, 10.0).share == 0.05


def test_what_is_left_out_does_not_count() -> None:
    """Such as answers to questions, which have a bound of their own."""
    cpu, clock = iter((1.0, 2.0, 3.0)), iter((10.0, 20.0, 30.0))
    meter = CpuMeter(lambda: next(cpu), lambda: next(clock))
    meter.leave_out(5.0)  # nothing was measured yet
    meter.lap()
    meter.leave_out(0.75)
    assert [meter.lap() for _ in range(2)] == [Usage(0.25, 10.0), Usage(1.0, 10.0)]


def test_the_meter_counts_all_threads_of_this_process() -> None:
    """gRPC's and the spool's are the agent's doing, too."""
    meter = CpuMeter()
    meter.lap()
    usage = meter.lap()
    assert usage is not None
    assert 0 <= usage.share <= 64
