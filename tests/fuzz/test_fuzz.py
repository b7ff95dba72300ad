"""A slice of what `make soak` runs long: every target, with inputs that are the same each time."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checking import check
from fuzz.mutations import mutations
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

_INPUTS = 600
_MOST_BYTES = 50_000_000


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_made_from_right_ones_break_nothing(name: str) -> None:
    """Each is refused as documented or taken, within bounds of time and memory."""
    target = TARGETS[name]
    for data in seeds(name):  # what is loaded and cached once is no growth
        check(target, data)
    tracemalloc.start()
    try:
        for data in islice(mutations(seeds(name), seed=20_261_122), _INPUTS):
            check(target, data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < _MOST_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_arbitrary_bytes_break_nothing(name: str) -> None:
    """They have nothing of what is right."""

    @settings(derandomize=True, max_examples=100, deadline=None, database=None)
    @given(st.binary(max_size=2_000) | st.text(max_size=500).map(str.encode))
    def run(data: bytes) -> None:
        check(TARGETS[name], data)

    run()


def test_an_input_that_takes_too_long_is_told_of() -> None:
    """The bound holds for whatever a target does."""

    def slow(_: bytes) -> None:
        sum(range(30_000_000))

    with pytest.raises(AssertionError, match="took"):
        check(slow, b"", most_seconds=0.1)


def test_the_inputs_are_the_same_each_time() -> None:
    """Or a failure could not be looked at again."""
    once, again = (list(islice(mutations(seeds("words"), seed=5), 200)) for _ in range(2))
    assert once == again
    assert list(islice(mutations(seeds("words"), seed=6), 200)) != once
