"""Lists the sockets of a host, as its agent reads them when it is asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from loiter.durations import format_duration
from loiter.limits import MAX_LISTED_SOCKETS
from loiter.logs import unlimited
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.access.principal import caller, caller_address
from loiter_aggregator.fleet.errors import InvalidRequest, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.host_detail import HostDetail
from loiter_aggregator.ingest.rates import TokenBucket
from loiter_aggregator.ingest.socket_queries import (
    ANSWER_SECONDS,
    DoesNotAnswer,
    NoAnswer,
    NotConnected,
    SocketQueries,
    TooManyQuestions,
)

_log = logging.getLogger(__name__)

_DEFAULT_SOCKETS: Final = 100
# Of one caller: so many questions a second, and so many at once.
_RATE: Final = 1.0
_BURST: Final = 10.0
_MAX_CALLERS: Final = 1_000
_STATES: Final = frozenset(socket_pb2.TcpState.values()) - {socket_pb2.TCP_STATE_UNSPECIFIED}
# The first release whose agents can be asked.
_FIRST_RELEASE: Final = (0, 3)


class Sockets:
    """Asks agents through the streams that they keep open, and says in the log who asked for what."""

    def __init__(self, fleet: Fleet, queries: SocketQueries, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Takes what finds hosts, what asks their agents, and the clock that callers are held to, in seconds."""
        self._fleet = fleet
        self._queries = queries
        self._monotonic = monotonic
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    async def list_sockets(self, request: pb.ListSocketsRequest) -> pb.ListSocketsResponse:
        """Asks the agent of a host.

        Raises:
            InvalidRequest, NotFound: As the message says.
            Unavailable: The host is not connected, or its agent does not answer, or nothing could be read.
            Overloaded: The caller asks too often, or too many ask.
            TookTooLong: No answer came in time.
            StoreError: The hosts can not be read.
        """
        return await self._read(await self.admit(request), request)

    async def admit(self, request: pb.ListSocketsRequest) -> HostDetail:
        """Holds the caller to the rate, and says in the log who asks for what. Returns the host that is asked for.

        Raises:
            InvalidRequest, NotFound: As the message says.
            Overloaded: The caller asks too often.
            TookTooLong, StoreError: The host can not be found in time, or at all.
        """
        _check(request)
        self._keep_to_rate()
        detail = await self._fleet.find_host(request.name)
        _record(detail, _query(request))
        return detail

    async def read(self, request: pb.ListSocketsRequest) -> pb.ListSocketsResponse:
        """Asks the agent of a host, for however many were admitted. Raises as `list_sockets` does."""
        return await self._read(await self._fleet.find_host(request.name), request)

    async def _read(self, detail: HostDetail, request: pb.ListSocketsRequest) -> pb.ListSocketsResponse:
        answer = await self._ask(detail, _query(request))
        if answer.error:
            raise Unavailable(f"the agent of {_name(detail)} lists no sockets: {printable(answer.error)}")
        answer.query_id = 0  # means nothing to who asks
        return pb.ListSocketsResponse(host=detail.host, answer=answer)

    async def _ask(self, detail: HostDetail, query: socket_pb2.SocketQuery) -> socket_pb2.SocketAnswer:
        host = _name(detail)
        try:
            return await self._queries.ask(detail.host_key, query)
        except NotConnected:
            seen = datetime.fromtimestamp(detail.last_seen // 1_000, UTC)
            raise Unavailable(
                f"{host} is not connected, so that its agent can not be asked; its last report came at {seen:%FT%TZ}"
            ) from None
        except DoesNotAnswer as error:
            raise Unavailable(_why_not(host, str(error))) from None
        except NoAnswer as error:
            raise Unavailable(f"the agent of {host} did not answer: {printable(str(error))}") from None
        except TooManyQuestions as error:
            raise Overloaded(f"{error} wait for their answer; ask again later") from None
        except TimeoutError:
            raise TookTooLong(
                f"the agent of {host} did not answer within {format_duration(ANSWER_SECONDS)}; it may be cut off, or "
                "have too much to do"
            ) from None

    def _keep_to_rate(self) -> None:
        """Raises Overloaded where a caller asks too often."""
        now = self._monotonic()
        who = caller.get().name, caller_address.get()
        if who not in self._buckets:
            if len(self._buckets) >= _MAX_CALLERS:
                self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)}
            if len(self._buckets) >= _MAX_CALLERS:
                raise Overloaded("too many ask for sockets; ask again later")
            self._buckets[who] = TokenBucket(_RATE, _BURST, now)
        if not self._buckets[who].take_if_there(now):
            raise Overloaded(f"sockets can be asked for {_BURST:g} times at once, then every {1 / _RATE:g} s")


def state_name(state: int) -> str:
    """What ss(8) calls a state, in lower case; the number where it has no name."""
    name = socket_pb2.TcpState.Name(socket_pb2.TcpState.ValueType(state)) if state in _STATES else str(state)
    return name.removeprefix("TCP_STATE_").lower()


def _query(request: pb.ListSocketsRequest) -> socket_pb2.SocketQuery:
    return socket_pb2.SocketQuery(pid=request.pid, states=request.states, limit=request.limit or _DEFAULT_SOCKETS)


def _check(request: pb.ListSocketsRequest) -> None:
    if request.limit > MAX_LISTED_SOCKETS:
        raise InvalidRequest(f"limit is over {MAX_LISTED_SOCKETS:,} sockets")
    if len(request.states) > len(_STATES) or not _STATES.issuperset(request.states):
        raise InvalidRequest("states has one that is not known, or too many")


def _record(detail: HostDetail, query: socket_pb2.SocketQuery) -> None:
    """Says in the log who asks, before anything is shown. Their number is kept within bounds by `_keep_to_rate`."""
    who, address = caller.get().name, caller_address.get()
    states = ", ".join(state_name(state) for state in query.states)
    parts = ([f"process {query.pid}"] if query.pid else []) + ([states] if states else [])
    _log.info(
        "%s%s asks for the sockets of %s%s",
        who,
        f" at {address}" if address else "",
        _name(detail),
        f": {', '.join(parts)}" if parts else "",
        extra=unlimited(
            principal=who,
            peer=address or None,
            host=detail.host.hostname,
            pid=query.pid or None,
            states=states or None,
            limit=query.limit,
        ),
    )


def _why_not(host: str, release: str) -> str:
    """Says why an agent is not asked: an older release does not tell that it is set not to answer."""
    if _numbers(release) < _FIRST_RELEASE:
        return (
            f"the agent of {host} is of release {printable(release)}: it takes 0.3.0 or later, with answer_sockets not "
            "switched off, to list sockets"
        )
    return f"the agent of {host} is set not to list sockets (answer_sockets is false there)"


def _numbers(release: str) -> tuple[int, ...]:
    parts = release.split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() and len(part) < 6 for part in parts) else ()


def _name(detail: HostDetail) -> str:
    return printable(detail.host.hostname)
