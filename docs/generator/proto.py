"""The .proto files with their comments, as protoc reads them."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

_PROTO: Final = Path(__file__).parents[2] / "proto"
# In the order in which people want to read them.
_FILES: Final = tuple(f"loiter/v1/{name}.proto" for name in ("fleet_service", "ingest_service", "sample", "socket"))

# Field numbers of descriptor.proto, which paths of SourceCodeInfo are made of.
_FILE_MESSAGES: Final = 4
_FILE_ENUMS: Final = 5
_FILE_SERVICES: Final = 6
_INSIDE: Final = 2  # fields of a message, values of an enum, methods of a service

_SCALARS: Final = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a message, a value of an enum, or a method of a service. `kind` is its type; empty of a value."""

    name: str
    number: int
    kind: str
    comment: str


@dataclass(frozen=True, slots=True)
class Described:
    """A message, an enum or a service."""

    name: str
    comment: str
    members: tuple[Member, ...]

    def comment_of(self, name: str) -> str:
        """What is said of one of them. Raises KeyError where there is none of that name."""
        return {member.name: member.comment for member in self.members}[name]


@dataclass(frozen=True, slots=True)
class Contract:
    """All of the package loiter.v1, in the order of the files."""

    services: Mapping[str, Described]
    messages: Mapping[str, Described]
    enums: Mapping[str, Described]


@functools.cache
def contract() -> Contract:
    """Reads the files."""
    files = [_File(file) for file in _compiled() if file.name in _FILES]
    files.sort(key=lambda one: _FILES.index(one.file.name))
    return Contract(
        {one.name: one for file in files for one in file.services()},
        {one.name: one for file in files for one in file.messages()},
        {one.name: one for file in files for one in file.enums()},
    )


def _compiled() -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "descriptors")
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{_PROTO}", f"-I{well_known}", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main([*arguments, *_FILES]) != 0:
            raise RuntimeError("protoc can not read the .proto files")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


class _File:
    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self._comments = {
            tuple(place.path): _unwrapped(place.leading_comments) for place in file.source_code_info.location
        }

    def services(self) -> list[Described]:
        return [
            Described(
                one.name,
                self._comment(_FILE_SERVICES, at),
                tuple(
                    Member(
                        method.name,
                        0,
                        f"{_side(method.input_type, method.client_streaming)} → "
                        f"{_side(method.output_type, method.server_streaming)}",
                        self._comment(_FILE_SERVICES, at, _INSIDE, place),
                    )
                    for place, method in enumerate(one.method)
                ),
            )
            for at, one in enumerate(self.file.service)
        ]

    def messages(self) -> list[Described]:
        return [self._message(at, one) for at, one in enumerate(self.file.message_type)]

    def enums(self) -> list[Described]:
        return [self._enum(at, one) for at, one in enumerate(self.file.enum_type)]

    def _message(self, at: int, message: DescriptorProto) -> Described:
        pairs = {one.name: one for one in message.nested_type if one.options.map_entry}
        fields = tuple(
            Member(field.name, field.number, _type(field, pairs), self._comment(_FILE_MESSAGES, at, _INSIDE, place))
            for place, field in enumerate(message.field)
        )
        return Described(message.name, self._comment(_FILE_MESSAGES, at), fields)

    def _enum(self, at: int, enum: EnumDescriptorProto) -> Described:
        values = tuple(
            Member(value.name, value.number, "", self._comment(_FILE_ENUMS, at, _INSIDE, place))
            for place, value in enumerate(enum.value)
        )
        return Described(enum.name, self._comment(_FILE_ENUMS, at), values)

    def _comment(self, *path: int) -> str:
        return self._comments[path]


def _type(field: FieldDescriptorProto, pairs: Mapping[str, DescriptorProto]) -> str:
    name = _short(field.type_name) if field.type_name else _SCALARS[field.type]
    if name in pairs:
        key, value = pairs[name].field
        return f"map<{_type(key, {})}, {_type(value, {})}>"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def _side(name: str, streaming: bool) -> str:
    return f"stream of {_short(name)}" if streaming else _short(name)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _unwrapped(comment: str) -> str:
    """Joins the lines of each paragraph. Lines that are indented further stay lines."""
    lines = [line.removeprefix(" ") for line in comment.rstrip("\n").split("\n")]
    text = "\n".join(lines)
    return re.sub(r"(?<=[^\n])\n(?=[^\s])", " ", text).strip()
