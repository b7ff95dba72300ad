"""The keys of a JSON document: taken from what the code writes, explained by what the .proto files say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from generator.markdown import clause, code, table
from generator.proto import contract

# What was found, by its name: the keys are no names of figures.
FOUND: Final = ("labels", "thread_states", "wait_channels", "kinds")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a key means whose inner keys are those of a key of another document, or, with no path, of its rows."""

    meaning: str
    document: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A document: an example that has every key, and where it is said what they mean.

    A key is explained by `meanings` or `figures`, by its path, else by the field of its name in the message that
    `messages` has for the object that it is in ("" for the document itself). A meaning is a text, or `Message.field`.
    Each of the `meanings` is of a key; of the `figures`, which documents share, not all need be. What is
    beneath the paths of `elsewhere` is left out.
    """

    example: Callable[[], object]
    messages: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)

    def render(self) -> str:
        """A table of the keys."""
        return table(("key", "meaning"), ((code(path), said) for path, said in self.explained()))

    def explained(self) -> Iterator[tuple[str, str]]:
        """Each key by its path, with its meaning. Raises KeyError where it has none, or where a meaning has no key."""
        seen = set[str]()
        for path in paths(self.example(), tuple(self.elsewhere)):
            seen.add(path)
            yield path, self._meaning(path)
        if idle := (self.meanings.keys() | self.elsewhere.keys()) - seen:
            raise KeyError(f"no such key: {', '.join(sorted(idle))}")

    def _meaning(self, path: str) -> str:
        within, _, name = path.rpartition(".")
        if path in self.elsewhere:
            return _resolved(self.elsewhere[path].meaning, path)
        said = self.meanings.get(path) or self.figures.get(path)
        if said is None and within in self.messages:
            said = f"{self.messages[within]}.{name}"
        if said is None:
            raise KeyError(f"{path}: nobody says what it means")
        return _resolved(said, path)


def paths(document: object, stop: tuple[str, ...] = (), path: str = "") -> Iterator[str]:
    """The paths of all keys; those in lists have `[]` before them. Beneath `stop` nobody looks."""
    if isinstance(document, list):
        if document:
            yield from paths(document[0], stop, f"{path}[]" if path else "")
    elif isinstance(document, dict):
        for key, value in document.items():
            inner = f"{path}.{key}" if path else key
            yield inner
            if key not in FOUND and inner not in stop:
                yield from paths(value, stop, inner)


def _resolved(said: str, path: str) -> str:
    message, dot, name = said.partition(".")
    if not dot or message not in contract().messages:
        return said
    try:
        return clause(contract().messages[message].comment_of(name))
    except KeyError:
        raise KeyError(f"{path}: {message} has no field {name}") from None
