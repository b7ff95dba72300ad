"""Messages and dataclasses with something in every place, so that no key of a document is missing."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)
Anything = TypeVar("Anything")

_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_SCALARS: Mapping[object, object] = {str: "x", int: 1, float: 1.0, bool: True, datetime: _MOMENT}


def filled_message(kind: type[AnyMessage]) -> AnyMessage:
    """A message with every message in it present, and one element in every list."""
    message = kind()
    _fill(message)
    return message


def filled_dataclass(kind: type[Anything]) -> Anything:
    """An instance of a dataclass with no None in it, and one element in every tuple."""
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name]) for field in dataclasses.fields(kind) if field.init})  # type: ignore[arg-type]


def _fill(message: Message) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            if field.is_repeated:
                getattr(message, field.name).append("x")
            elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
                setattr(message, field.name, "x")
            else:
                setattr(message, field.name, 1)
        elif field.message_type.GetOptions().map_entry:
            continue
        elif field.is_repeated:
            _fill(getattr(message, field.name).add())
        else:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name))


def _value(hint: Any) -> Any:
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _value(next(one for one in arguments if one is not type(None)))
    if origin is Literal:
        return arguments[0]
    if origin is tuple:
        return tuple(_value(one) for one in arguments if one is not Ellipsis)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    if dataclasses.is_dataclass(hint):
        return filled_dataclass(hint)  # type: ignore[arg-type]
    return {}
