"""What comes over the wire: bytes that no agent sent, and messages that are nearly right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from fuzz.oracle import is_printable_refusal
from loiter.limits import MAX_LISTED_SOCKETS
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1.fleet_service_pb2 import ListSocketsResponse
from loiter.v1.socket_pb2 import TCP_STATE_CLOSE_WAIT, TCP_STATE_TIME_WAIT, Socket, SocketAnswer, SocketQuery
from loiter_agent.inet_diag import ALL_STATES
from loiter_agent.socket_rows import read_query
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.ingest.clocks import HostClock
from loiter_aggregator.ingest.losses import missing, told
from loiter_aggregator.ingest.validation import Invalid, check_hello, check_report, check_sent, check_socket_answer
from loiter_aggregator.output.data import as_csv, as_json
from loiter_aggregator.output.sockets import document, heading, socket_row, summary
from loiter_aggregator.store.batch import Batch, key_of
from support.reports import NOW, full_report, hello, host_id, report

_HOSTNAME: Final = "web-1"
_HOST_ID: Final = host_id(_HOSTNAME)
_SINCE_BOOT: Final = 1_000_000
_LISTED: Final = 100
_INTEGERS: Final = (0, 1, 3, 255, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS: Final = (0.0, -0.0, -1.0, 1e308, float("inf"), float("-inf"), float("nan"), 5e-324, 0.5, 1e18)
_TEXTS: Final = ("", "x", "\0", "\x1b[31m", "é" * 256, "x" * 257, "x" * 70_000, "\u202e", "<script>", "=1+1", "\N{BOM}")
# The width of a field's type; a value outside it can not be set, nor sent.
_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def request(data: bytes) -> None:
    """One message of an agent as it comes: it is refused by DecodeError or Invalid, or it can be stored."""
    try:
        message = pb.StreamReportsRequest.FromString(data)
    except DecodeError:
        return
    take_in(message)


def mutated_request(data: bytes) -> None:
    """A valid message with fields changed one by one, as the bytes say."""
    kinds = ((b"\x20", _hello), (b"\x40", _loss), (b"\x60", _socket_answer))
    message = next((make for bound, make in kinds if data[:1] < bound), _report)()
    rng = random.Random(data)
    for _ in range(1 + len(data) % 4):
        mutate(message, rng)
    # Over the wire, as it would come: what can not be sent is no input.
    take_in(pb.StreamReportsRequest.FromString(message.SerializeToString()))


def take_in(message: pb.StreamReportsRequest) -> None:
    """Does what IngestService does with a message. Whatever passes validation fits the columns of the store."""
    try:
        check_sent(message)
        if message.WhichOneof("request") == "hello":
            check_hello(message.hello)
            _clock(message)
            return
        if message.WhichOneof("request") == "socket_answer":
            check_socket_answer(message.socket_answer, SocketQuery(limit=_LISTED))
            _show(message.socket_answer)
            return
        check_report(message.report, _HOST_ID)
    except Invalid as error:
        is_printable_refusal(error)
        return
    batch = Batch()
    _add(batch, message.report, _clock(_hello()))
    for rows, columns in (
        (batch.host_rows, batch.host_columns),
        (batch.process_rows, batch.process_columns),
        (batch.lost_rows, batch.lost_columns),
        (batch.latest, batch.latest_columns),
    ):
        assert not rows or {len(column) for column in columns().values()} == {len(rows)}
    assert batch.high_water or batch.lost_rows, "neither stored nor lost"
    for identity in batch.identities.values():
        "".join(identity).encode()


def socket_query(data: bytes) -> None:
    """A question for sockets as it comes to an agent: whatever it asks for, it gets no more than the limits allow."""
    try:
        query = SocketQuery.FromString(data)
    except DecodeError:
        return
    wanted = read_query(query)
    assert 0 < wanted.limit <= MAX_LISTED_SOCKETS
    assert 0 <= wanted.states <= ALL_STATES
    assert wanted.pid != 0


def _show(answer: SocketAnswer) -> None:
    """What passes validation can be shown, and controls no terminal."""
    listed = ListSocketsResponse(answer=answer)
    shown = as_csv(document(listed)["sockets"], list(socket_row(Socket()))) + summary(answer) + heading(listed)
    assert "\x1b" not in shown
    as_json(document(listed))


def _add(batch: Batch, report: pb.Report, clock: HostClock) -> None:
    taken = from_duration(report.taken_since_boot) if report.HasField("taken_since_boot") else None
    if report.WhichOneof("content") == "loss":
        skew = clock.skew(report.boot_id, taken, from_timestamp(report.loss.last_sample_time))
        for settled in (None, 0, 3):
            for lost in told(report, settled, skew, NOW):
                batch.add_loss(key_of(_HOST_ID), lost, NOW)
    else:
        for lost in missing(report.spool_epoch, report.sequence, 1):
            batch.add_loss(key_of(_HOST_ID), lost, NOW)
        skew = clock.skew(report.boot_id, taken, from_timestamp(report.sample.sample_time))
        batch.add(key_of(_HOST_ID), report, NOW, skew)


def _clock(message: pb.StreamReportsRequest) -> HostClock:
    said = message.hello
    agent_time = from_timestamp(said.agent_time) if said.HasField("agent_time") else None
    sent = from_duration(message.sent_since_boot) if message.HasField("sent_since_boot") else None
    return HostClock(said.host.boot_id, agent_time, sent, NOW, _SINCE_BOOT)


def _hello() -> pb.StreamReportsRequest:
    message = pb.StreamReportsRequest(hello=hello(_HOSTNAME, labels={"role": "web", "dc": "fra1"}))
    message.sent_since_boot.FromMilliseconds(_SINCE_BOOT)
    return message


def _report() -> pb.StreamReportsRequest:
    message = pb.StreamReportsRequest()
    message.ParseFromString(_full_report())
    return message


def _socket_answer() -> pb.StreamReportsRequest:
    message = pb.StreamReportsRequest()
    answer = message.socket_answer
    answer.query_id, answer.matching, answer.unattributed = 7, 9, 1
    answer.sample_time.FromMilliseconds(NOW)
    one = answer.sockets.add(
        state=TCP_STATE_CLOSE_WAIT, local="192.0.2.1:443", peer="[2001:db8::1]:50000", receive_queue=1, pid=7
    )
    one.name, one.app, one.namespace = "gateway", "gateway.service", "4026531840"
    one.age.FromSeconds(90)
    one.idle.FromSeconds(30)
    answer.sockets.add(state=TCP_STATE_TIME_WAIT)
    return message


def _loss() -> pb.StreamReportsRequest:
    message = pb.StreamReportsRequest(report=report(_HOSTNAME, 9))
    told_of = message.report.loss
    told_of.reason, told_of.first_sequence = pb.LOSS_REASON_SPOOL_FULL, 4
    told_of.first_sample_time.FromMilliseconds(NOW - 10_000)
    told_of.last_sample_time.FromMilliseconds(NOW)
    message.report.taken_since_boot.FromMilliseconds(_SINCE_BOOT)
    return message


@cache
def _full_report() -> bytes:
    return pb.StreamReportsRequest(report=full_report()).SerializeToString()


def mutate(message: Message, rng: random.Random) -> None:
    """Changes one field somewhere in a message."""
    owner, field = rng.choice(list(_fields(message)))
    kind = rng.randrange(6)
    if kind == 0:
        owner.ClearField(field.name)
    elif field.is_repeated:
        _mutate_repeated(owner, field, rng)
    elif field.message_type is not None:
        getattr(owner, field.name).SetInParent()
    else:
        setattr(owner, field.name, _value(field, rng))


def _mutate_repeated(owner: Message, field: Any, rng: random.Random) -> None:
    values: Any = getattr(owner, field.name)
    times = rng.choice((1, 2, 40, 3_000))
    if field.message_type is None:
        values.extend(_value(field, rng) for _ in range(times))
    elif field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(min(times, 40)):
            values[str(_value(key, rng))[:300]] = _value(value, rng)
    else:
        one = values[0] if len(values) else values.add()
        for _ in range(times if one.ByteSize() < 100 else min(times, 40)):
            values.add().CopyFrom(one)


def _fields(message: Message) -> Iterator[tuple[Message, Any]]:
    """All fields of a message and of the messages that are set in it; of many alike, the first two."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for inner in getattr(message, field.name)[:2]:
                yield from _fields(inner)
        elif message.HasField(field.name):
            yield from _fields(getattr(message, field.name))


def _value(field: Any, rng: random.Random) -> object:
    if field.cpp_type in _RANGES:
        lowest, highest = _RANGES[field.cpp_type]
        return max(lowest, min(highest, rng.choice((1, -1)) * rng.choice(_INTEGERS)))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return rng.choice(_TEXTS) if field.type == FieldDescriptor.TYPE_STRING else rng.randbytes(rng.randrange(300))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    return rng.choice(_FLOATS)
