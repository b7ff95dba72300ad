"""Settings of a program: declared as a frozen dataclass, read from a TOML file, the environment and flags.

A flag beats the environment, the environment beats the file, and the file beats the default. A file that nothing names
may come as a systemd credential (systemd.exec(5)), in the folder that CREDENTIALS_DIRECTORY names. A nested dataclass
is a TOML table. The environment variable of `interval` is LOITER_INTERVAL, that of `top` in table `processes` is
LOITER_PROCESSES_TOP.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from loiter.durations import format_duration, parse_duration
from loiter.limits import LABEL_KEY_PATTERN, MAX_LABEL_KEY_CHARS, MAX_LABEL_VALUE_CHARS, MAX_LABELS
from loiter.text import printable

Settings = TypeVar("Settings")
Reader = Callable[[object], Any]

# In place of a default: a table of a file of tables has to have it.
REQUIRED: Final = dataclasses.MISSING

ENVIRONMENT_PREFIX: Final = "LOITER_"
# A name, a value, and some spaces around them.
_MAX_LABEL_LINE_CHARS: Final = MAX_LABEL_KEY_CHARS + MAX_LABEL_VALUE_CHARS + 16
_NO_LABEL: Final = (
    "no label; write a label a line, such as role=web: a name of letters, digits, '_', '.' and '-', and a printable "
    f"text of at most {MAX_LABEL_VALUE_CHARS} characters"
)


class SettingsError(Exception):
    """A setting that can not be used. The message says which, where, and what would be right."""


@dataclasses.dataclass(frozen=True, slots=True)
class Where:
    """Where a table of a file of tables stands, and each setting that is set in it: the file and the line.

    `header` is how the table is written, such as `[[rule]]`.
    """

    table: str = ""
    header: str = ""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def wrong(self, what: str, name: str | None = None) -> SettingsError:
        """The error that says what is wrong with a setting; with the table where none is named."""
        if name is None:
            return SettingsError(f"{self.table}: {self.header}: {what}")
        return SettingsError(f"{self.settings.get(name, self.table)}: {name}: {what}")

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Says of a ValueError that it is about a setting, as of one whose file can not be read."""
        try:
            yield
        except ValueError as error:
            raise self.wrong(str(error), name) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One setting: its dotted name, how its value is read, and what it means."""

    name: str
    read: Reader
    default: object
    help: str
    flag: str
    credential: str | None

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.name.replace(".", "_").upper()


def setting(default: Any, read: Reader, help: str, flag: str | None = None, credential: str | None = None) -> Any:
    """Declares a field of a settings dataclass. Where its default is REQUIRED, `load_tables` alone can read it.

    A setting whose name is a word of Python's, such as `from`, is a field with an underscore behind it, `from_`.

    `read` takes the TOML value or, from elsewhere, a string. `flag` is needed where it is not the setting's name.
    `credential` is the name of the systemd credential that is used where nothing names a file.
    """
    metadata = {"read": read, "help": help, "flag": flag, "credential": credential}
    return dataclasses.field(default=default, metadata=metadata)


def entries(settings: type[Any], prefix: str = "") -> Iterator[Entry]:
    """Lists the settings of a dataclass, those of nested tables included."""
    for field in dataclasses.fields(settings):
        if "read" in field.metadata:
            name = prefix + field.name.rstrip("_")
            flag = field.metadata["flag"] or "--" + name.replace(".", "-").replace("_", "-")
            yield Entry(
                name, field.metadata["read"], field.default, field.metadata["help"], flag, field.metadata["credential"]
            )
        elif isinstance(field.default_factory, type):
            yield from entries(field.default_factory, f"{prefix}{field.name}.")


def load(
    settings: type[Settings],
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
) -> Settings:
    """Builds the settings.

    Args:
        settings: The dataclass that declares them.
        file: A TOML file, or None to go without one.
        environment: The process environment; names that begin with LOITER_ are looked at, and CREDENTIALS_DIRECTORY.
        flags: By dotted name, the flags that were given; None stands for one that was not.

    Raises:
        SettingsError: A file that can not be read or parsed, a name that no setting has, or a value it does not take.
    """
    known = {entry.name: entry for entry in entries(settings)}
    values = _from_credentials(environment, known)
    if file is not None:
        values.update(_from_file(file, known))
    values.update(_from_environment(environment, known))
    for name, value in flags.items():
        if value is not None:
            values[name] = _read(known[name], value, known[name].flag)
    return _build(settings, values)


def load_tables(file: Path, kinds: Mapping[str, type[Any]]) -> dict[str, list[Any]]:
    """Reads a TOML file whose tables are things of a kind, such as `[[rule]]`, as often as wanted.

    Args:
        file: The file.
        kinds: By the name of a table, the settings dataclass that declares what is in one.

    Returns:
        By the name of a table, what is in each of that name, in order. `[rule]` counts as one `[[rule]]`. A field
        `where` that is no setting is told where that stands, a Where.

    Raises:
        SettingsError: A file that can not be read or parsed, a table or a setting that is not known, a value that a
            setting does not take, or one that is missing.
    """
    document, text = _parse_file(file)
    found: dict[str, list[Any]] = {name: [] for name in kinds}
    for kind, content in document.items():
        if kind not in kinds:
            where = f"{file}:{_line_of(text, kind)}: {printable(kind)}"
            raise SettingsError(f"{where}: unknown table{_suggestion(kind, kinds, 'tables')}")
        for number, table in enumerate(content if isinstance(content, list) else [content]):
            line = _line_of_table(text, kind, number)
            if not isinstance(table, dict):
                raise SettingsError(f"{file}:{line}: {kind}: no table; write [[{kind}]] above its settings")
            header = f"[[{kind}]]" if isinstance(content, list) else f"[{kind}]"
            found[kind].append(_build_table(kinds[kind], table, text, f"{file}:", line, header))
    return found


def check_number(tables: Sequence[Any], most: int) -> None:
    """Raises SettingsError where there are more tables of a kind than may be."""
    if len(tables) > most:
        raise tables[most].where.wrong(f"more than {most} of these tables")


def check_distinct(tables: Iterable[Any], name: str) -> None:
    """Raises SettingsError where two tables have the same value of a setting."""
    seen: set[str] = set()
    for table in tables:
        value = getattr(table, name)
        if value in seen:
            raise table.where.wrong(f"{value} is there twice; give each {table.where.header} its own", name)
        seen.add(value)


def _build_table(settings: type[Any], table: Mapping[str, object], text: str, file: str, line: int, header: str) -> Any:
    known = {entry.name: entry for entry in entries(settings)}
    values: dict[str, object] = {}
    lines: dict[str, str] = {}
    for name, value in _flatten(table, known):
        lines[name] = f"{file}{_line_within(text, name, line)}"
        where = f"{lines[name]}: {printable(name)}"
        if name not in known:
            raise SettingsError(f"{where}: unknown setting{_suggestion(name, known)}")
        values[name] = _read(known[name], value, where)
    if "where" in {field.name for field in dataclasses.fields(settings)} - known.keys():
        values["where"] = Where(f"{file}{line}", header, lines)
    for name, entry in known.items():
        if entry.default is REQUIRED and name not in values:
            raise SettingsError(f"{file}{line}: {name}: it has to be set: {entry.help}")
    return _build(settings, values)


def _build(settings: type[Settings], values: Mapping[str, object], prefix: str = "") -> Settings:
    arguments: dict[str, object] = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]  # a TypeVar can not be bound to "a dataclass"
        name = prefix + field.name.rstrip("_")
        if isinstance(field.default_factory, type) and "read" not in field.metadata:
            arguments[field.name] = _build(field.default_factory, values, f"{name}.")
        elif name in values:
            arguments[field.name] = values[name]
    return settings(**arguments)


def _read(entry: Entry, value: object, where: str) -> object:
    try:
        return entry.read(value)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None


def _from_credentials(environment: Mapping[str, str], known: Mapping[str, Entry]) -> dict[str, object]:
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return {}
    files = {entry.name: Path(folder, entry.credential) for entry in known.values() if entry.credential is not None}
    return {name: file for name, file in files.items() if file.exists()}


def _from_file(file: Path, known: Mapping[str, Entry]) -> dict[str, object]:
    document, text = _parse_file(file)
    values: dict[str, object] = {}
    for name, value in _flatten(document, known):
        where = f"{file}:{_line_of(text, name)}: {printable(name)}"
        if name not in known:
            raise SettingsError(f"{where}: unknown setting{_suggestion(name, known)}")
        values[name] = _read(known[name], value, where)
    return values


def _parse_file(file: Path) -> tuple[dict[str, object], str]:
    """Parses a TOML file. Returns what it says, and its text."""
    import tomllib  # late: many agents have no file

    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8 text (byte {error.start})") from None
    try:
        return tomllib.loads(f"{text}\n"), text  # it has no line for what is wrong at the very end
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise SettingsError(_not_toml(file, text, str(error))) from None


def _not_toml(file: Path, text: str, reason: str) -> str:
    """What tomllib says, with the line where all others have it, and with the key that is there twice."""
    match = re.fullmatch(r"(.*) \(at line (\d+), (column \d+)\)", reason, re.DOTALL)
    if match is None:
        return f"{file}: not valid TOML: {reason}"
    line = int(match[2])
    key = re.match(r"\s*([^=#\[\]]+?)\s*=", text.split("\n")[line - 1])
    if match[1] == "Cannot overwrite a value" and key is not None:
        return f"{file}:{line}: {printable(key[1])}: it has a value already"
    return f"{file}:{line}: not valid TOML: {match[1]} ({match[3]})"


def _flatten(table: Mapping[str, object], known: Mapping[str, Entry], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and name not in known and any(other.startswith(f"{name}.") for other in known):
            yield from _flatten(value, known, f"{name}.")
        else:
            yield name, value


def _line_of(text: str, name: str) -> int:
    """Finds the line that sets `name`, for messages: tomllib does not keep positions."""
    table = ""
    found = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]", line):
            table = header[1].replace('"', "").replace("'", "")
            if table == name:
                found = number
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            written = key[1].replace('"', "").replace("'", "").replace(" ", "")
            if name == (f"{table}.{written}" if table else written):
                return number
    return found


def _line_of_table(text: str, kind: str, number: int) -> int:
    """Finds the line of the header of the table that is the `number`-th of its kind, from 0.

    Without a header, as of tables within brackets, it is the line that sets them.
    """
    headers = [
        at
        for at, line in enumerate(text.splitlines(), start=1)
        if re.match(rf"\s*\[{{1,2}}\s*[\"']?{re.escape(kind)}[\"']?\s*\]", line)
    ]
    return headers[number] if number < len(headers) else _line_of(text, kind)


def _line_within(text: str, name: str, start: int) -> int:
    """Finds the line that sets `name` behind a header; that of the header where it can not be told."""
    key = rf"[\"']?{re.escape(name.rpartition('.')[2])}[\"']?\s*"
    for at, line in enumerate(text.splitlines()[start:], start=start + 1):
        # A table of its own, such as [rule.labels], stands for the setting.
        if re.match(rf"\s*({key}=|\[[^\[\]]*\.\s*{key}\])", line):
            return at
        if re.match(r"\s*\[\[", line):
            break
    return start


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Entry]) -> dict[str, object]:
    by_variable = {entry.environment: entry for entry in known.values()}
    values: dict[str, object] = {}
    for variable, text in environment.items():
        if variable in by_variable:
            entry = by_variable[variable]
            values[entry.name] = _read(entry, text, f"environment variable {variable}")
        elif variable.startswith(ENVIRONMENT_PREFIX):
            # The agent, the aggregator and its command line share the prefix, so a strange name is an error only
            # where it looks like a slip in one of ours.
            near = _nearest(variable, by_variable, 0.92)
            if near is not None:
                raise SettingsError(f"environment variable {variable}: unknown setting; did you mean {near}?")
    return values


def _suggestion(name: str, known: Iterable[str], what: str = "settings") -> str:
    near = _nearest(name, known, 0.6)
    return f"; did you mean {near}?" if near is not None else f"; the {what} are {', '.join(sorted(known))}"


def _nearest(name: str, known: Iterable[str], similarity: float) -> str | None:
    import difflib  # late: needed for messages alone

    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=similarity)), None)


# Readers: each takes a TOML value or a string and returns the setting's value, or raises ValueError for a person. What
# values it takes stands in its docstring, for the reference.


def text(value: object) -> str:
    """Reads a text."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def matching(pattern: str, meaning: str) -> Reader:
    """Makes a reader of strings of one form."""

    def read(value: object) -> str:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise ValueError(f"{value!r} is not {meaning}")
        return value

    read.__doc__ = f"Reads {meaning}."
    return read


def one_of(*choices: str) -> Reader:
    """Makes a reader of a choice."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    read.__doc__ = f"Reads one of {', '.join(choices)}."
    return read


def boolean(value: object) -> bool:
    """Reads `true` or `false`."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError(f"{value!r} is not true or false")


def integer(minimum: int, maximum: int) -> Reader:
    """Makes a reader of whole numbers in a range, both ends included."""

    def read(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a whole number")
        if not minimum <= value <= maximum:
            raise ValueError(f"{value} is not between {minimum} and {maximum}")
        return value

    read.__doc__ = f"Reads a whole number, {minimum:,} to {maximum:,}."
    return read


def duration(minimum_seconds: float, maximum_seconds: float) -> Reader:
    """Makes a reader of durations in a range; the value is in seconds."""

    def read(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a duration; write it as a text such as '10s'")
        seconds = parse_duration(value)
        if not minimum_seconds <= seconds <= maximum_seconds:
            raise ValueError(f"{value!r} is not between {_written(minimum_seconds)} and {_written(maximum_seconds)}")
        return seconds

    read.__doc__ = f"Reads a duration, {_written(minimum_seconds)} to {_written(maximum_seconds)}."
    return read


def _written(seconds: float) -> str:
    return format_duration(seconds) if seconds else "0s"


_UNITS: Final = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}


def size(minimum_bytes: int, maximum_bytes: int) -> Reader:
    """Makes a reader of sizes such as 64MB in a range; the value is in bytes."""

    def read(value: object) -> int:
        match = re.fullmatch(r"([0-9]{1,9})(KB|MB|GB)", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not a size such as 64MB")
        found = int(match[1]) * _UNITS[match[2]]
        if not minimum_bytes <= found <= maximum_bytes:
            raise ValueError(f"{value!r} is not between {minimum_bytes:,} and {maximum_bytes:,} bytes")
        return found

    read.__doc__ = f"Reads a size, {minimum_bytes:,} to {maximum_bytes:,} bytes."
    return read


def percentage(minimum: float, maximum: float) -> Reader:
    """Makes a reader of percentages such as 2% in a range; the value is a share, 0.02."""

    def read(value: object) -> float:
        match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)%", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not a percentage such as 2%")
        if not minimum <= float(match[1]) <= maximum:
            raise ValueError(f"{value!r} is not between {minimum:g}% and {maximum:g}%")
        return float(match[1]) / 100

    read.__doc__ = f"Reads a percentage, {minimum:g}% to {maximum:g}%."
    return read


def path(value: object) -> Path:
    """Reads a path."""
    if isinstance(value, Path):
        return value
    if "\0" in text(value):
        raise ValueError(f"{value!r} is not a path")
    return Path(text(value))


def address(value: object) -> str:
    """Reads HOST:PORT, with an IPv6 host in brackets."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\]|[A-Za-z0-9._-]+):([0-9]{1,5})", value)
        if match is not None and int(match[2]) <= 65_535:
            return value
    raise ValueError(f"{value!r} is not HOST:PORT")


def address_or_off(value: object) -> str | None:
    """Reads HOST:PORT, with an IPv6 host in brackets, or `off`."""
    return None if value == "off" else address(value)


def addresses(value: object) -> tuple[str, ...]:
    """Reads a list of HOST:PORT, or one text with commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items:
        raise ValueError(f"{value!r} is not a list of HOST:PORT")
    return tuple(address(item.strip() if isinstance(item, str) else item) for item in items)


def labels(value: object) -> tuple[tuple[str, str], ...]:
    """Reads a table of labels, or one text such as `role=web,dc=fra1`.

    From flags it is a list of pairs.
    """
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    else:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"{value!r} is not a table of labels")
        pairs = []
        for item in items:
            key, equals, content = str(item).partition("=")
            if not equals:
                raise ValueError(f"{str(item)!r} is not of the form key=value")
            pairs.append((key.strip(), content.strip()))
    if len(pairs) > MAX_LABELS:
        raise ValueError(f"more than {MAX_LABELS} labels")
    for key, content in pairs:
        if re.fullmatch(LABEL_KEY_PATTERN, key) is None or len(key) > MAX_LABEL_KEY_CHARS:
            raise ValueError(f"{key!r} is not a label name; use letters, digits, '_', '.' and '-'")
        if not isinstance(content, str) or len(content) > MAX_LABEL_VALUE_CHARS or not content.isprintable():
            raise ValueError(f"label {key} is not a printable text of at most {MAX_LABEL_VALUE_CHARS} characters")
    return tuple(dict(pairs).items())


def label_lines(text: str, where: str, *, quote: bool = True) -> dict[str, str]:
    """Reads labels, a line each, such as `role=web`; blank lines and those that begin with # are passed over.

    Raises ValueError; where a line is wrong, it begins with `where` and the line's number. Without `quote` it does not
    show what is there: that may be another file than was meant, with a secret in it.
    """
    found: dict[str, str] = {}
    for number, line in enumerate((line.strip() for line in text.split("\n")), start=1):
        if not line or line.startswith("#"):
            continue
        if len(line) > _MAX_LABEL_LINE_CHARS:  # nor would anybody want to see it quoted
            raise ValueError(f"{where}{number}: longer than a label can be; write a label a line, such as role=web")
        try:
            ((key, content),) = labels((line,))
        except ValueError as error:
            wrong = str(error) if quote else _NO_LABEL
            raise ValueError(f"{where}{number}: {wrong}") from None
        if key in found:
            raise ValueError(f"{where}{number}: label {key} for a second time; a host has one value of each")
        found[key] = content
    return found
