"""Puts messages together of parts that are encoded already: what stays from tick to tick is encoded once.

The encoding is that of https://protobuf.dev/programming-guides/encoding/. Fields may stand in any order.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

_LARGEST_KEPT: Final = 1 << 17
_LENGTH_DELIMITED: Final = 2
_VARINT: Final = 0


class Varints(dict[int, bytes]):
    """Numbers as varints; small ones are computed once."""

    def __missing__(self, number: int) -> bytes:
        """Computes one."""
        encoded = bytearray()
        left = number
        while left > 0x7F:
            encoded.append(left & 0x7F | 0x80)
            left >>= 7
        encoded.append(left)
        found = bytes(encoded)
        if number < _LARGEST_KEPT:
            self[number] = found
        return found


VARINTS: Final = Varints()


def tag(message: type[Message], field: str) -> bytes:
    """What stands before the value of a field: of a count, before the number; of a message, before its length."""
    described = message.DESCRIPTOR.fields_by_name[field]
    kind = _VARINT if described.message_type is None else _LENGTH_DELIMITED
    return VARINTS[described.number << 3 | kind]
