"""The documentation names all that people can type and scripts can read."""

from __future__ import annotations

import json
import re
from argparse import _SubParsersAction
from importlib import import_module
from pathlib import Path

import click
import pytest

from loiter.settings import Entry, entries
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_agent.__main__ import build_parser
from loiter_agent.config import AgentSettings
from loiter_aggregator.commands import VERBS, loiter
from loiter_aggregator.commands.explain import document as explain_document
from loiter_aggregator.commands.fleet import document as fleet_document
from loiter_aggregator.commands.host import document as host_document
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.output.rows import Row, app_row, host_row, process_row
from support.programs import BIN, ROOT, run

REFERENCE = (ROOT / "docs/reference.md").read_text()
WORDS = set(re.findall(r"[`\s|(]([A-Za-z0-9_.-]+)", REFERENCE)) | set(re.findall(r"`([^`]+)`", REFERENCE))


def _is_default(entry: Entry, text: str) -> bool:
    """Whether a text is the default, as people would write it."""
    return entry.default in (None, ()) if text == "none" else entry.read(text) == entry.default


@pytest.mark.parametrize("settings", [AgentSettings, AggregatorSettings])
def test_every_setting_has_a_row_with_its_variable_and_default(settings: type[object]) -> None:
    """As the code has them."""
    for entry in entries(settings):
        row = re.search(rf"^\| `{entry.name}` \| `{entry.environment}` \| ([^|]+) \|", REFERENCE, re.MULTILINE)
        assert row, entry.name
        assert _is_default(entry, row[1]), entry.name


def test_every_row_of_a_setting_is_a_setting() -> None:
    """What was removed from the code is gone from the tables."""
    known = {entry.environment for settings in (AgentSettings, AggregatorSettings) for entry in entries(settings)}
    assert set(re.findall(r"\| `(LOITER_[A-Z_]+)` \|", REFERENCE)) == known


def test_every_verb_and_flag_of_loiter_is_named() -> None:
    """With what click knows of them."""
    with click.Context(loiter) as context:
        for verb in VERBS:
            assert verb in REFERENCE
            command = loiter.get_command(context, verb)
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    for flag in parameter.opts:
                        assert f"`{flag}`" in REFERENCE, (verb, flag)


def test_every_verb_and_flag_of_the_agent_is_named() -> None:
    """With what argparse knows of them."""
    for action in build_parser()._actions:
        if isinstance(action, _SubParsersAction):
            for verb, parser in action.choices.items():
                assert f"`loiter-agent {verb}`" in REFERENCE
                for flag in (flag for one in parser._actions for flag in one.option_strings):
                    assert flag in ("-h", "--help") or re.search(rf"`[^`]*{flag}\b", REFERENCE), (verb, flag)


# Their keys are what was found, not names of figures.
_FOUND = ("labels", "thread_states", "wait_channels")


def _keys(document: object) -> set[str]:
    if isinstance(document, dict):
        inner = (value for key, value in document.items() if key not in _FOUND)
        return set(document) | {key for value in inner for key in _keys(value)}
    if isinstance(document, list):
        return {key for value in document for key in _keys(value)}
    return set()


def _documents() -> list[Row]:
    latest = sample_pb2.Sample(
        time_wait=[sample_pb2.TimeWaitGroup()],
        time_wait_limits=sample_pb2.TimeWaitLimits(),
        ports=[sample_pb2.PortBudget()],
        namespaces=[sample_pb2.NetworkNamespace()],
        collectors=[sample_pb2.CollectorStatus(error="why")],
        spool=sample_pb2.SpoolStatus(),
    )
    aged = pb.ProcessRank(close_wait_age=sample_pb2.SocketAges())
    host = pb.GetHostResponse(processes=[aged], latest=latest, lost_samples=[pb.LostSamples()])
    process = sample_pb2.ProcessSample(
        evidence=sample_pb2.CloseWaitEvidence(accept_queue=sample_pb2.AcceptQueue()),
        peers=[sample_pb2.Peer()],
        container=sample_pb2.Container(),
    )
    why = pb.ExplainProcessResponse(
        rank=aged, latest=process, steps=[pb.ExplanationStep()], time_wait=latest.time_wait, ports=latest.ports
    )
    notice = [pb.HostNotice()]
    fleet = pb.GetFleetResponse(
        silent_hosts=[pb.SilentHost()],
        losing_hosts=notice,
        skewed_hosts=notice,
        degraded_hosts=notice,
        conflicts=[pb.HostConflict()],
    )
    return [
        host_row(1, pb.HostRank()),
        process_row(1, aged),
        app_row(1, pb.AppRank()),
        host_document(host),
        explain_document(why),
        fleet_document(fleet),
        json.loads(run([BIN / "loiter-agent", "sample", "-o", "json"]).stdout),
    ]


def test_every_json_key_is_named() -> None:
    """Of all verbs, nested keys included."""
    missing = {key for document in _documents() for key in _keys(document)} - WORDS
    assert missing == set()


def test_every_make_target_of_the_guides_exists() -> None:
    """README and CONTRIBUTING name no target that is not there."""
    makefile = (ROOT / "Makefile").read_text()
    for guide in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", (ROOT / guide).read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (guide, target)


def test_the_verbs_are_modules_of_their_own() -> None:
    """The list of verbs and the folder hold the same."""
    for verb in VERBS:
        assert isinstance(getattr(import_module(f"loiter_aggregator.commands.{verb}"), verb), click.Command)


def test_paths_named_in_the_guides_exist() -> None:
    """Folders and files of the layout."""
    for path in re.findall(
        r"`((?:proto|agent|aggregator|tests|deploy|docs)/[a-z_./-]*)`", (ROOT / "CONTRIBUTING.md").read_text()
    ):
        assert Path(ROOT, path).exists(), path
