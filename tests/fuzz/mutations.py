"""Makes inputs from others: the same ones for the same seed, on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

_INTERESTING: Final = (
    b"",
    b"\0",
    b"\n",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"9" * 5_000,
    b"1e999",
    b"nan",
    b" - ",
    b"\xf0\x9f",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"\\777",
    b"[",
    b'"',
    b"(",
    b":",
    b"%",
)
_LONGEST: Final = 16_384


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yields inputs without end: the seeds, then what comes of changing and joining them."""
    yield from seeds
    rng = random.Random(seed)
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            _change(data, seeds, rng)
        yield bytes(data[:_LONGEST])


def _change(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    to = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64, 4_096)))
    kind = rng.randrange(7)
    if kind == 0:
        del data[at:to]
    elif kind == 1:
        data[at:to] = rng.choice(_INTERESTING)
    elif kind == 2:
        data[at:at] = data[at:to] * rng.choice((1, 2, 50))
    elif kind == 3:
        data[at:to] = rng.randbytes(to - at)
    elif kind == 4 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 5:
        other = rng.choice(seeds)
        data[at:] = other[rng.randrange(len(other) + 1) :]
    else:
        del data[to:]
