"""Words that stand for kinds of things, and names for parts of a page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb

CHANGES: Final[Mapping[int, str]] = {
    change: name.removeprefix("FINDING_CHANGE_").lower() for name, change in pb.FindingChange.items() if change
}
ALERT_STATES: Final[Mapping[int, str]] = {
    state: name.removeprefix("ALERT_STATE_").lower() for name, state in pb.AlertState.items() if state
}
DELIVERY_STATES: Final[Mapping[int, str]] = {
    state: name.removeprefix("DELIVERY_STATE_").lower() for name, state in pb.DeliveryState.items() if state
}


def row_id(*parts: object) -> str:
    """A name of a row that stays with what it is about, whatever its place: of characters that no host chose."""
    return "r" + hashlib.blake2s("\0".join(map(str, parts)).encode("utf-8", "replace"), digest_size=8).hexdigest()
