"""The wire contract: services, messages and enums with what the .proto files say of them."""

from __future__ import annotations

import re

from generator.markdown import code, table
from generator.proto import Described, Member, contract


def services() -> str:
    """The services and their methods."""
    parts = []
    for service in contract().services.values():
        parts += [f"### {service.name}", service.comment]
        for method in service.members:
            parts += [f"**{method.name}**: {_linked(method.kind)}", _paragraphs(method.comment)]
    return "\n\n".join(parts)


def messages() -> str:
    """A section for each message, with a table of its fields."""
    return "\n\n".join(_message(message) for message in contract().messages.values())


def enums() -> str:
    """A section for each enum, with a table of its values."""
    return "\n\n".join(_enum(enum) for enum in contract().enums.values())


def _message(message: Described) -> str:
    head = f"### {message.name}\n\n{_paragraphs(message.comment)}"
    return f"{head}\n\n{table(('number', 'field', 'type', 'meaning'), map(_field, message.members))}"


def _enum(enum: Described) -> str:
    rows = ((str(one.number), code(one.name), one.comment) for one in enum.members)
    return f"### {enum.name}\n\n{enum.comment}\n\n{table(('number', 'value', 'meaning'), rows)}"


def _field(field: Member) -> tuple[str, ...]:
    return str(field.number), code(field.name), _linked(field.kind), field.comment


def _linked(kind: str) -> str:
    """A type, with each message and enum of ours as a link to its section."""
    known = contract().messages.keys() | contract().enums.keys()
    return re.sub(
        r"[A-Z]\w+", lambda match: f"[{match[0]}](#{match[0].lower()})" if match[0] in known else match[0], kind
    )


def _paragraphs(comment: str) -> str:
    """Indented lines of a comment are a list of terms."""
    comment = re.sub(r"\n +(?=[A-Z_]{4,})", "\n- ", comment)
    comment = re.sub(r"\n {3,}(?=\S)", " ", comment)
    comment = re.sub(r"(?m)^- ([A-Z_]+) +", r"- `\1` ", comment)
    return re.sub(r"(?<!\n)\n(?=- )", "\n\n", comment, count=1)
