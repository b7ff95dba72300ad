"""Answers GetHistory: how figures of the fleet, a host, an application or a process went."""

from __future__ import annotations

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.fleet.errors import NotFound
from loiter_aggregator.fleet.messages import history_response
from loiter_aggregator.fleet.named_host import named_host
from loiter_aggregator.fleet.requests import read_history
from loiter_aggregator.ranking.history import History, app_history, host_history, process_history
from loiter_aggregator.store.question import Question


def history_answer(store: Question, now: int, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
    """Shows how figures went, up to `now` or the end that is asked for. Raises InvalidRequest, NotFound, StoreError."""
    ranking, parts = read_history(request, now)
    host = named_host(store, request.host) if request.host else None
    history = History(ranking, parts, None if host is None else host.host_key)
    on = "" if host is None else f" of {printable(host.host.hostname)}"
    if request.pid:
        values, what = process_history(store, history, request.pid), f"process {request.pid}"
    elif request.app:
        values, what = app_history(store, history, request.app), f"app {printable(request.app)!r}"
    else:
        values, what = host_history(store, history), "host"
    if values is None:
        raise NotFound(f"no {what}{on} has been reported")
    return history_response(ranking, parts, values)
