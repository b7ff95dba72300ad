"""The documentation names all that people can type and scripts can read, and shows nothing that is not there."""

from __future__ import annotations

import ast
import json
import re
from argparse import _SubParsersAction
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest

from generate import BLOCKS, DOCS
from generator.blocks import fill, names
from generator.documents import DOCUMENTS
from generator.json_keys import Document, paths
from generator.settings import agent_settings, aggregator_settings
from loiter.settings import Entry, entries
from loiter_agent.__main__ import build_parser
from loiter_agent.config import AgentSettings
from loiter_aggregator.commands import VERBS, loiter
from loiter_aggregator.config import AggregatorSettings
from support.command_lines import CommandLine, command_lines, parse
from support.programs import BIN, ROOT, free_port, run

PAGES = sorted(DOCS.rglob("*.md"))
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
CLI = DOCS / "reference/cli.md"


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


# The reference is what the code says.


@pytest.mark.parametrize("file", [page for page in PAGES if names(page.read_text())], ids=_name)
def test_what_is_generated_is_current(file: Path) -> None:
    """Otherwise: make docs."""
    assert fill(file.read_text(), BLOCKS) == file.read_text()


def test_all_that_is_generated_stands_in_one_place() -> None:
    """No block is left out, and none is there twice."""
    assert sorted(name for page in PAGES for name in names(page.read_text())) == sorted(BLOCKS)


def _is_default(entry: Entry, text: str) -> bool:
    """Whether a text is the default, as people would write it."""
    return entry.default in (None, (), "") if text == "none" else entry.read(text.strip("`")) == entry.default


@pytest.mark.parametrize(
    ("settings", "table"),
    [(AgentSettings, agent_settings()), (AggregatorSettings, aggregator_settings())],
    ids=["agent", "aggregator"],
)
def test_every_setting_has_a_row_with_its_default_and_variable(settings: type[object], table: str) -> None:
    """A person who types the default that stands there gets it."""
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+) \|$", table, re.MULTILINE))
    for entry in entries(settings):
        takes, default, meaning, ways = rows.pop(entry.name).split(" | ")
        assert takes, entry.name
        assert meaning, entry.name
        assert _is_default(entry, default), entry.name
        assert f"`{entry.environment}`" in ways, entry.name
    assert not rows


def test_every_verb_and_flag_of_loiter_is_named() -> None:
    """With what click knows of them."""
    text = CLI.read_text()
    for words, command in _click_commands(loiter, "loiter", click.Context(loiter, **loiter.context_settings)):
        assert f"### `{words}`" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for flag in parameter.opts:
                    assert f"`{flag}`" in text, (words, flag)


def _click_commands(group: click.Group, words: str, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _click_commands(command, f"{words} {name}", context)
        else:
            yield f"{words} {name}", command


def test_every_verb_and_flag_of_the_agent_is_named() -> None:
    """With what argparse knows of them."""
    text = CLI.read_text()
    for action in build_parser()._actions:
        if isinstance(action, _SubParsersAction):
            for verb, parser in action.choices.items():
                assert f"### `loiter-agent {verb}`" in text
                for flag in (flag for one in parser._actions for flag in one.option_strings):
                    assert flag in ("-h", "--help") or f"`{flag}`" in text, (verb, flag)


def test_the_verbs_are_modules_of_their_own() -> None:
    """The list of verbs and the folder hold the same."""
    for verb in VERBS:
        assert isinstance(getattr(import_module(f"loiter_aggregator.commands.{verb}"), verb), click.Command)


# JSON.


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_json_key_has_a_meaning(name: str) -> None:
    """Nested keys included, and no meaning is of a key that is not there."""
    keys = dict(DOCUMENTS[name].explained())
    assert keys
    assert all(keys.values())


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document.elsewhere])
def test_keys_that_are_explained_elsewhere_are_the_same_there(name: str) -> None:
    """What stands beneath a key is just what stands beneath the one that is referred to."""
    for path, other in DOCUMENTS[name].elsewhere.items():
        assert _beneath(DOCUMENTS[name], path) == _beneath(DOCUMENTS[other.document], other.path), path


def _beneath(document: Document, path: str) -> set[str]:
    inside = (one for one in paths(document.example()) if _in(one, path))
    return {one.removeprefix(path).removeprefix("[]").lstrip(".") for one in inside} - {""}


def _in(path: str, outer: str) -> bool:
    return not outer or re.match(rf"{re.escape(outer)}(\[\]|\.|$)", path) is not None


def test_a_real_sample_has_no_key_that_is_not_named() -> None:
    """Of the installed program."""
    real = json.loads(run([BIN / "loiter-agent", "sample", "-o", "json"]).stdout)
    assert set(paths(real)) <= {path for path, _ in DOCUMENTS["json-sample"].explained()}


# What is shown can be typed.


@pytest.mark.parametrize("file", GUIDES, ids=_name)
def test_every_command_line_that_is_shown_parses(file: Path) -> None:
    """By the real parsers: no flag, verb or value that they would refuse."""
    tried = ((one, parse(one)) for one in command_lines(file))
    wrong = [f"{file}:{one.line}: {one.text}: {said}" for one, said in tried if said is not None]
    assert not wrong, "\n".join(wrong)


def test_a_command_line_that_is_wrong_is_found() -> None:
    """A verb, a flag, a value or an argument that is not there; in running text, arguments may be left out."""
    for text in (
        "loiter tip",
        "loiter top hosts --bye x",
        "loiter top hosts --by x",
        "loiter host",
        "loiter-agent ran",
    ):
        assert parse(CommandLine(1, text, complete=True)) is not None, text
    for text in ("loiter top --bye", "loiter-agent run --sever", "loiter tip"):
        assert parse(CommandLine(1, text, complete=False)) is not None, text
    for text in ("loiter host", "loiter top hosts|processes", "loiter token add NAME --right read|ingest"):
        assert parse(CommandLine(1, text, complete=False)) is None, text
    assert parse(CommandLine(1, "loiter top hosts --by stuck --window 5m -o json | jq .", complete=True)) is None


def test_command_lines_are_found_in_guides() -> None:
    """Those of code blocks, with what goes on in the next line, and those in running text."""
    shown = [one.text for one in command_lines(ROOT / "README.md")]
    assert any(text.startswith("loiter top apps") for text in shown)
    assert any(text.startswith("loiter-agent install") for text in shown)


# Links and names.


@pytest.mark.parametrize("file", GUIDES, ids=_name)
def test_links_lead_somewhere(file: Path) -> None:
    """To a file of the repository, and to a heading that it has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(file.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (file.parent / path).resolve() if path else file
        assert to.exists(), (file, target)
        assert ROOT in (to, *to.parents), (file, target)
        assert not anchor or anchor in _anchors(to), (file, target)


def test_every_page_can_be_reached() -> None:
    """From the map of the documentation, by links alone."""
    reached, ahead = set[Path](), [DOCS / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md" or DOCS not in page.parents or not page.exists():
            continue
        reached.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)", _without_code(page.read_text()))
        ahead += [(page.parent / target).resolve() for target in targets if not re.match(r"[a-z]+:", target)]
    assert set(PAGES) - reached == set()


@cache
def _anchors(file: Path) -> frozenset[str]:
    """The anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("file", GUIDES, ids=_name)
def test_make_targets_and_paths_that_are_named_exist(file: Path) -> None:
    """Folders, files and targets of this repository."""
    text = file.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`((?:proto|agent|aggregator|tests|deploy|docs)/[\w./-]*)`", text):
        assert Path(ROOT, path).exists(), path


# Messages.


@cache
def _texts() -> tuple[str, ...]:
    """Every string of the programs, and every part of one between what is put in."""
    files = [file for folder in ("proto", "agent", "aggregator") for file in (ROOT / folder).rglob("*.py")]
    trees = (ast.parse(file.read_text()) for file in files if not file.name.endswith(("_pb2.py", "_pb2_grpc.py")))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return tuple({node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)})


# What others say, whom we quote.
_NOT_OURS = ("Connection refused", "failed to connect to all addresses", "Permission denied")


def test_messages_that_are_explained_are_those_of_the_programs() -> None:
    """What stands in the first column of the page on trouble is said by a program, word for word."""
    page = (DOCS / "operate/troubleshooting.md").read_text()
    first_cells = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    quoted = [text for cell in first_cells for text in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 40
    for text in quoted:
        for part in re.split(r"\s*…\s*", text):
            wanted = part.strip(" :,")
            if wanted and wanted != "-" and wanted not in _NOT_OURS:
                assert any(wanted in said for said in _texts()), text


def test_commands_end_as_the_table_says() -> None:
    """With 0, 1 and 2."""
    nowhere = f"127.0.0.1:{free_port()}"
    assert run([BIN / "loiter", "--version"]).returncode == 0
    assert run([BIN / "loiter", "fleet", "--server", nowhere]).returncode == 1
    assert run([BIN / "loiter", "top", "nothing"]).returncode == 2
    assert run([BIN / "loiter-agent", "--version"]).returncode == 0
    assert run([BIN / "loiter-agent", "run", "--interval", "never"]).returncode == 2
