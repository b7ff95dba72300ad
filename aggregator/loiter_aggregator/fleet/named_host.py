"""Finds the host that a question names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from loiter.text import printable
from loiter_aggregator.fleet.errors import NotFound
from loiter_aggregator.fleet.requests import check_host_name
from loiter_aggregator.host_detail import HostDetail, find_host, known_names
from loiter_aggregator.store.question import Question


def named_host(store: Question, name: str) -> HostDetail:
    """Finds a host by its name or id. Raises InvalidRequest, NotFound, StoreError."""
    check_host_name(name)
    detail = find_host(store, name)
    if detail is None:
        raise NotFound(_unknown_host(name, known_names(store)))
    return detail


def _unknown_host(name: str, names: Sequence[str]) -> str:
    near = [printable(one) for one in difflib.get_close_matches(name, names, n=3, cutoff=0.5)]
    return f"no host {name!r} has reported" + (f"; did you mean {' or '.join(near)}?" if near else "")
