"""What people write: settings, durations, addresses, labels; and texts that are shown to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from fuzz.oracle import is_printable_refusal, is_refusal
from fuzz.scratch import scratch
from loiter import settings
from loiter.addresses import is_loopback
from loiter.durations import format_duration, parse_duration
from loiter.text import printable
from loiter_agent.config import AgentSettings
from loiter_agent.label_sources import read_file
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.output import cells

_PROGRAMS: Final[tuple[type[Any], ...]] = (AgentSettings, AggregatorSettings)


def settings_file(data: bytes) -> None:
    """A file of settings, read by both programs. It is refused by SettingsError, which can be shown."""
    file = scratch() / "settings.toml"
    file.write_bytes(data)
    for program in _PROGRAMS:
        _load(program, file, {})


def settings_environment(data: bytes) -> None:
    """Variables of the environment: names and values with NUL between."""
    words = [os.fsdecode(word) for word in data.split(b"\0")]
    environment = {"LOITER_" + name: value for name, value in zip(words[::2], words[1::2], strict=False)}
    for program in _PROGRAMS:
        _load(program, None, environment)


def _load(program: type[Any], file: Path | None, environment: dict[str, str]) -> None:
    try:
        loaded = settings.load(program, file, environment, {})
    except settings.SettingsError as error:
        is_refusal(error)
        return
    assert isinstance(loaded, program)


def labels_file(data: bytes) -> None:
    """A file of labels. What it holds keeps the rules that the aggregator has for labels."""
    file = scratch() / "labels"
    file.write_bytes(data)
    try:
        found = read_file(file)
    except settings.SettingsError as error:
        is_printable_refusal(error)
        return
    assert all(settings.labels({name: value}) == ((name, value),) for name, value in found.items())


_READERS: Final[tuple[Callable[[object], object], ...]] = (
    settings.text,
    settings.boolean,
    settings.path,
    settings.address,
    settings.addresses,
    settings.labels,
    settings.integer(-5, 10**9),
    settings.duration(0.5, 3_600),
    settings.size(1, 10**12),
    settings.percentage(0.1, 6_400),
    settings.matching("[0-9a-f]{32}", "hexadecimal"),
    settings.one_of("debug", "info"),
)


def words(data: bytes) -> None:
    """One word: as the value of a setting, as a duration, as an address, and as something to show."""
    word = os.fsdecode(data)
    for read in _READERS:
        try:
            read(word)
        except ValueError as error:
            is_refusal(error)
    try:
        seconds = parse_duration(word)
    except ValueError:
        pass
    else:
        assert parse_duration(format_duration(seconds).split()[0]) <= seconds + 86_400
    with suppress(ValueError):
        is_loopback(settings.address(word))
    for shown in (printable(word), cells.text(word)):
        assert shown.isprintable()
