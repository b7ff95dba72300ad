"""How settings are read from a file, the environment and flags, and what is said when one can not be used."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter.limits import MAX_LABEL_KEY_CHARS, MAX_LABEL_VALUE_CHARS, MAX_LABELS
from loiter.settings import (
    REQUIRED,
    SettingsError,
    address,
    addresses,
    boolean,
    duration,
    entries,
    integer,
    labels,
    load,
    load_tables,
    matching,
    one_of,
    path,
    setting,
    text,
)

properties = settings(derandomize=True, max_examples=100, deadline=None, database=None)


@dataclass(frozen=True, slots=True)
class Inner:
    top: int = setting(10, integer(0, 100), "how many")
    keep_for: float = setting(60.0, duration(1, 3_600), "how long")


@dataclass(frozen=True, slots=True)
class Example:
    interval: float = setting(10.0, duration(0.5, 3_600), "time between two samples")
    name: str | None = setting(None, matching("[a-z]+", "a name"), "what it is called")
    state_dir: Path = setting(Path("/state"), path, "where it is kept")
    verbose: bool = setting(False, boolean, "whether to say more")
    labels: tuple[tuple[str, str], ...] = setting((), labels, "labels")
    processes: Inner = field(default_factory=Inner)


def read(
    file: Path | None = None, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Example:
    return load(Example, file, environment or {}, flags or {})


def refusal(
    file: Path | None = None, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> str:
    """What is said when the settings can not be used."""
    with pytest.raises(SettingsError) as caught:
        read(file, environment, flags)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "example.toml"


class TestPrecedence:
    def test_without_anything_the_defaults_hold(self) -> None:
        """Those of nested tables too."""
        assert read() == Example()

    def test_each_source_beats_the_one_below_it(self, file: Path) -> None:
        """A flag beats the environment, which beats the file, which beats the default."""
        file.write_text('interval = "20s"\n')
        environment = {"LOITER_INTERVAL": "30s"}
        assert read(file).interval == 20
        assert read(file, environment).interval == 30
        assert read(file, environment, {"interval": "40s"}).interval == 40

    def test_a_flag_that_was_not_given_beats_nothing(self, file: Path) -> None:
        """None stands for it."""
        file.write_text('interval = "20s"\n')
        assert read(file, flags={"interval": None}).interval == 20

    def test_sources_add_up(self, file: Path) -> None:
        """Each may set what the others do not."""
        file.write_text('name = "web"\n[processes]\ntop = 3\n')
        got = read(file, {"LOITER_PROCESSES_KEEP_FOR": "5m"}, {"verbose": True})
        assert got == Example(name="web", verbose=True, processes=Inner(top=3, keep_for=300.0))

    def test_tables_of_the_file_may_be_written_in_every_way(self, file: Path) -> None:
        """As a table, inline, or with a dot."""
        for written in ("[processes]\ntop = 7\n", "processes = { top = 7 }\n", "processes.top = 7\n"):
            file.write_text(written)
            assert read(file).processes.top == 7

    def test_names_in_the_environment_follow_the_tables(self) -> None:
        """The dot becomes an underscore."""
        names = {entry.name: entry.environment for entry in entries(Example)}
        assert names == {
            "interval": "LOITER_INTERVAL",
            "name": "LOITER_NAME",
            "state_dir": "LOITER_STATE_DIR",
            "verbose": "LOITER_VERBOSE",
            "labels": "LOITER_LABELS",
            "processes.top": "LOITER_PROCESSES_TOP",
            "processes.keep_for": "LOITER_PROCESSES_KEEP_FOR",
        }
        assert read(environment={"LOITER_PROCESSES_TOP": "42"}).processes.top == 42


class TestFiles:
    def test_an_unknown_setting_is_named_with_its_line_and_a_suggestion(self, file: Path) -> None:
        """A slip is found by the file, the line and the name that was meant."""
        file.write_text('# comment\n\nintervall = "20s"\n')
        assert refusal(file) == f"{file}:3: intervall: unknown setting; did you mean interval?"

    def test_an_unknown_setting_in_a_table_is_named_with_the_table(self, file: Path) -> None:
        """The same key may stand in another table."""
        file.write_text('name = "web"\n[processes]\ntop = 3\ntpo = 4\n')
        assert refusal(file) == f"{file}:4: processes.tpo: unknown setting; did you mean processes.top?"

    def test_an_unknown_table_is_named_by_its_header(self, file: Path) -> None:
        """There is no key to name."""
        file.write_text('name = "web"\n\n[zzz]\ntop = 3\n')
        assert refusal(file).startswith(f"{file}:3: zzz: unknown setting; the settings are interval, labels,")

    def test_a_wrong_value_is_named_with_file_line_and_key(self, file: Path) -> None:
        """And what would be right."""
        file.write_text('name = "web"\n\n[processes]\n  top = 101\n')
        assert refusal(file) == f"{file}:4: processes.top: 101 is not between 0 and 100"
        file.write_text("interval = 20\n")
        message = refusal(file)
        assert message.startswith(f"{file}:1: interval: 20 is not a duration")
        assert "'10s'" in message

    def test_a_table_where_a_value_belongs_is_refused(self, file: Path) -> None:
        """And a value where a table belongs."""
        file.write_text("[interval]\nx = 1\n")
        assert refusal(file).startswith(f"{file}:1: interval: ")
        file.write_text("processes = 3\n")
        assert refusal(file).startswith(f"{file}:1: processes: unknown setting; did you mean processes.")

    def test_malformed_toml_is_named_with_its_line(self, file: Path) -> None:
        """As the parser says it."""
        file.write_text('name = "web"\ninterval = 20s\n')
        assert refusal(file).startswith(f"{file}:2: not valid TOML: ")

    @pytest.mark.parametrize("end", ["", "\n", "\ntop = 3\n"])
    @pytest.mark.parametrize("key", ["name", '"name"'])
    def test_a_key_that_is_there_twice_is_named_with_its_line(self, file: Path, key: str, end: str) -> None:
        """Also as the very last thing of the file, for which the parser has no line."""
        file.write_text(f'name = "web"\n{key} = "db"{end}')
        assert refusal(file) == f"{file}:2: {key}: it has a value already"

    def test_toml_nested_without_end_is_refused(self, file: Path) -> None:
        """Nor does it end the program."""
        file.write_text("interval = " + "[" * 5_000)
        assert "not valid TOML" in refusal(file)

    def test_a_file_that_is_no_text_is_refused(self, file: Path) -> None:
        """With the place where it stops being one."""
        file.write_bytes(b'name = "caf\xe9"\n')
        assert refusal(file) == f"{file}: not UTF-8 text (byte 11)"

    def test_a_file_that_can_not_be_read_is_named(self, tmp_path: Path) -> None:
        """With the reason."""
        missing = tmp_path / "missing.toml"
        assert refusal(missing) == f"cannot read {missing}: No such file or directory"
        assert refusal(tmp_path) == f"cannot read {tmp_path}: Is a directory"

    def test_a_file_without_rights_is_named(self, file: Path) -> None:
        """With the reason; the superuser may read anything."""
        if os.geteuid() == 0:
            pytest.skip("the superuser may read anything")
        file.touch(mode=0o000)
        assert refusal(file) == f"cannot read {file}: Permission denied"

    def test_an_empty_file_sets_nothing(self, file: Path) -> None:
        """Nor does one of comments."""
        file.write_text("# nothing\n")
        assert read(file) == Example()


class TestEnvironment:
    def test_a_wrong_value_names_the_variable(self) -> None:
        """And what would be right."""
        assert (
            refusal(environment={"LOITER_PROCESSES_TOP": "many"})
            == "environment variable LOITER_PROCESSES_TOP: 'many' is not a whole number"
        )

    @pytest.mark.parametrize(
        ("variable", "meant"),
        [("LOITER_INTERVALL", "LOITER_INTERVAL"), ("LOITER_PROCESES_TOP", "LOITER_PROCESSES_TOP")],
    )
    def test_a_slip_in_a_name_is_refused_with_a_suggestion(self, variable: str, meant: str) -> None:
        """It would go unnoticed otherwise."""
        assert (
            refusal(environment={variable: "1"})
            == f"environment variable {variable}: unknown setting; did you mean {meant}?"
        )

    def test_names_that_are_like_none_of_ours_are_left_alone(self) -> None:
        """The programs share the prefix, and other programs have names of their own."""
        environment = {"LOITER_DATABASE": "x", "LOITER_": "x", "INTERVAL": "x", "loiter_interval": "x", "PATH": "x"}
        assert read(environment=environment) == Example()


class TestFlags:
    def test_a_wrong_value_names_the_flag(self) -> None:
        """As it is typed."""
        assert refusal(flags={"interval": "soon"}).startswith("--interval: 'soon' is not a duration")
        assert refusal(flags={"state_dir": ""}).startswith("--state-dir: ")
        assert refusal(flags={"processes.top": "x"}).startswith("--processes-top: ")


class TestNamesOfFlags:
    def test_a_flag_that_is_not_the_settings_name_is_named_as_it_is_typed(self) -> None:
        """One label a flag, many in the setting."""

        @dataclass(frozen=True, slots=True)
        class Labelled:
            labels: tuple[tuple[str, str], ...] = setting((), labels, "labels", flag="--label")

        with pytest.raises(SettingsError, match=r"^--label: 'role' is not of the form key=value"):
            load(Labelled, None, {}, {"labels": ["role"]})


class TestLabels:
    @pytest.mark.parametrize(
        "value",
        [
            {"role": "web", "dc": "fra1"},
            "role=web,dc=fra1",
            " role = web , dc = fra1 ",
            ["role=web", "dc=fra1"],
        ],
    )
    def test_labels_are_read_from_a_table_a_text_or_a_list(self, value: object) -> None:
        """The file, the environment and flags that were given several times."""
        assert labels(value) == (("role", "web"), ("dc", "fra1"))

    def test_labels_stand_in_a_table_of_the_file(self, file: Path) -> None:
        """One line each."""
        file.write_text('[labels]\nrole = "web"\n"dc.zone" = "fra1"\n')
        assert read(file).labels == (("role", "web"), ("dc.zone", "fra1"))

    def test_a_value_may_hold_an_equals_sign_or_nothing(self) -> None:
        """The first one divides."""
        assert labels("query=a=b,empty=") == (("query", "a=b"), ("empty", ""))

    def test_the_last_of_two_labels_of_one_name_holds(self) -> None:
        """As with flags."""
        assert labels(["role=web", "role=db"]) == (("role", "db"),)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("role", "'role' is not of the form key=value"),
            ("", "'' is not of the form key=value"),
            ("=web", "'' is not a label name"),
            ("1st=web", "'1st' is not a label name"),
            ("a b=web", "'a b' is not a label name"),
            ({"role": 3}, "label role is not a printable text"),
            ({"k" * (MAX_LABEL_KEY_CHARS + 1): "v"}, "is not a label name"),
            ({"k": "v" * (MAX_LABEL_VALUE_CHARS + 1)}, "label k is not a printable text of at most"),
            ({f"k{n}": "v" for n in range(MAX_LABELS + 1)}, f"more than {MAX_LABELS} labels"),
            (7, "7 is not a table of labels"),
        ],
    )
    def test_what_is_no_label_is_refused(self, value: object, reason: str) -> None:
        """With the reason."""
        with pytest.raises(ValueError, match=reason):
            labels(value)


class TestReaders:
    @pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), ("true", True), ("false", False)])
    def test_booleans(self, value: object, expected: bool) -> None:
        """As TOML writes them."""
        assert boolean(value) is expected

    @pytest.mark.parametrize("value", ["yes", "1", 1, 0, "", None, "True"])
    def test_nothing_else_is_a_boolean(self, value: object) -> None:
        """No guessing."""
        with pytest.raises(ValueError, match="is not true or false"):
            boolean(value)

    def test_whole_numbers_have_a_range(self) -> None:
        """Both ends included."""
        assert [integer(-1, 5)(value) for value in (-1, 5, "-1", "5", "05")] == [-1, 5, -1, 5, 5]

    @pytest.mark.parametrize("value", [6, "6", -2, True, 1.0, "1.0", "", "1e3", "٣", " 3", "9" * 30, [1], None])
    def test_other_numbers_are_refused(self, value: object) -> None:
        """With a sentence, never a traceback."""
        with pytest.raises(ValueError, match="is not"):
            integer(-1, 5)(value)

    def test_durations_have_a_range(self) -> None:
        """Both ends included."""
        assert [duration(0.5, 60)(value) for value in ("500ms", "1m")] == [0.5, 60.0]
        for value in ("499ms", "61s", 10, 10.0, 1e-4, -5.0, math.nan, math.inf, True, None):
            with pytest.raises(ValueError, match="is not"):
                duration(0.5, 60)(value)

    @pytest.mark.parametrize(
        "value", ["localhost:7433", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0.5]:7433", "web-1.example:80"]
    )
    def test_addresses_are_host_and_port(self, value: str) -> None:
        """An IPv6 host stands in brackets."""
        assert address(value) == value

    @pytest.mark.parametrize(
        "value", ["localhost", ":7433", "::1:7433", "host:65536", "host:", "a b:1", "http://h:1", 7, None]
    )
    def test_what_is_no_address_is_refused(self, value: object) -> None:
        """A port must always be given."""
        with pytest.raises(ValueError, match=r"is not HOST:PORT"):
            address(value)

    @pytest.mark.parametrize("value", ["a:1,b:2", "a:1, b:2", ["a:1", "b:2"], ("a:1", "b:2")])
    def test_addresses_may_be_several(self, value: object) -> None:
        """In a list, or in one text."""
        assert addresses(value) == ("a:1", "b:2")

    @pytest.mark.parametrize("value", ["", [], "a:1,", 7, {}])
    def test_an_empty_list_of_addresses_is_refused(self, value: object) -> None:
        """There must be one to report to."""
        with pytest.raises(ValueError, match="HOST:PORT"):
            addresses(value)

    def test_choices_are_named_when_none_fits(self) -> None:
        """All of them."""
        assert one_of("info", "debug")("debug") == "debug"
        with pytest.raises(ValueError, match="'loud' is not one of info, debug"):
            one_of("info", "debug")("loud")

    def test_forms_must_match_as_a_whole(self) -> None:
        """No part of a text is enough."""
        assert matching("[a-z]+", "a name")("web") == "web"
        for value in ("web1", "web\n", "", 3):
            with pytest.raises(ValueError, match="is not a name"):
                matching("[a-z]+", "a name")(value)

    def test_a_text_is_not_empty(self) -> None:
        """Nor a number."""
        assert text("x") == "x"
        assert path("/a") == Path("/a")
        for value in ("", 3, None):
            with pytest.raises(ValueError, match="is not a text"):
                path(value)


toml_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@properties
@given(toml_values)
def test_readers_refuse_with_value_error_or_read(value: object) -> None:
    """Whatever TOML can hold: anything else would be a traceback on somebody's screen."""
    for reader in (boolean, integer(0, 9), duration(1, 9), path, address, addresses, labels, one_of("a"), text):
        with suppress(ValueError):
            reader(value)


@dataclass(frozen=True)
class Rule:
    """A table of a file of tables."""

    name: str = setting(REQUIRED, text, "what it is called")
    wait: float = setting(60.0, duration(1, 3_600), "how long to wait")


def read_tables(tmp_path: Path, content: str) -> dict[str, list[Rule]]:
    """Reads a file of rules."""
    file = tmp_path / "rules.toml"
    file.write_text(content)
    return load_tables(file, {"rule": Rule, "other": Rule})


def test_tables_of_a_kind_are_read_in_order(tmp_path: Path) -> None:
    """As often as they are there, each with its own defaults."""
    found = read_tables(tmp_path, '[[rule]]\nname = "a"\n[[rule]]\nname = "b"\nwait = "5s"\n[other]\nname = "c"\n')
    assert found == {"rule": [Rule("a"), Rule("b", 5.0)], "other": [Rule("c")]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[[rule]]\nname = "a"\n\n[[rule]]\nwait = "5s"\n', "rules.toml:4: name: it has to be set: what it is called"),
        ('[[rule]]\nname = "a"\n\n[[rule]]\nnam = "b"\n', "rules.toml:5: nam: unknown setting; did you mean name?"),
        ('[[rule]]\nname = "a"\nwait = "5h"\n', "rules.toml:3: wait: '5h' is not between 1s and 1h"),
        ('[[rul]]\nname = "a"\n', "rules.toml:1: rul: unknown table; did you mean rule?"),
        ("rule = 1\n", "rules.toml:1: rule: no table; write [[rule]] above its settings"),
        ("[[rule]\n", "rules.toml:1: not valid TOML"),
        ("[other]\n[other]\n", "rules.toml:2: not valid TOML"),
    ],
)
def test_a_table_that_can_not_be_used_is_named_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    """The line is that of the setting, or of the table's header where one is missing."""
    with pytest.raises(SettingsError) as raised:
        read_tables(tmp_path, content)
    assert says in str(raised.value)
