"""The labels of a host: which source beats which, and what happens where one of them fails or changes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from loiter.settings import SettingsError
from loiter_agent.config import AgentSettings
from loiter_agent.label_command import CommandError
from loiter_agent.label_sources import labels_now
from loiter_agent.labels import FILE_CHECK_SECONDS, Labels


class Clock:
    """A clock that tests move: what sleeps is woken when its time has come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.slept = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        due = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.now + seconds, due))
        self.slept.set()
        await due

    def waits(self) -> list[float]:
        """For how long the command and the file are let alone."""
        return sorted(due - self.now for due, future in self.sleepers if not future.done())

    async def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for due, future in self.sleepers:
            if due <= self.now and not future.done():
                future.set_result(None)
        await settle()
        while FILE_CHECK_SECONDS not in self.waits():  # a thread looks at the file
            self.slept.clear()
            await asyncio.wait_for(self.slept.wait(), 20)
        await settle()


async def settle() -> None:
    """Lets all that can be done now be done, but for threads."""
    for _ in range(50):
        await asyncio.sleep(0)


class Command:
    """Stands for a command: answers what it is told to, and notes what it was asked."""

    def __init__(self, *answers: Mapping[str, str] | str) -> None:
        self.answers = list(answers)
        self.asked: list[Sequence[str]] = []

    async def __call__(self, words: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(words)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise CommandError(answer)
        return answer


class Host:
    """Labels at work, beneath a clock."""

    def __init__(self, settings: AgentSettings, *answers: Mapping[str, str] | str) -> None:
        self.clock = Clock()
        self.command = Command(*answers)
        self.labels = Labels(settings, self.command, self.clock.sleep)
        self.changes: list[dict[str, str]] = []

    def current(self) -> dict[str, str]:
        return dict(self.labels.current)

    def command_waits(self) -> list[float]:
        waits = self.clock.waits()
        waits.remove(FILE_CHECK_SECONDS)
        return waits

    async def during(self, test: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
        running = asyncio.ensure_future(self.labels.run(lambda: self.changes.append(self.current())))
        await settle()
        try:
            await test(self)
            assert not running.done(), "it goes on for ever"
        finally:
            running.cancel()
            await asyncio.wait((running,))


def run(host: Host, test: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(host.during(test))


def lines(file: Path, *labels: str) -> Path:
    file.write_text("".join(f"{label}\n" for label in labels))
    return file


def test_settings_beat_the_file_which_beats_the_command(tmp_path: Path) -> None:
    """Label by label."""
    file = lines(tmp_path / "labels", "role=file", "rack=file")
    settings = AgentSettings(labels=(("role", "settings"),), labels_file=file, labels_command="metadata --all")
    host = Host(settings, {"role": "command", "rack": "command", "zone": "command"})
    assert host.current() == {"role": "settings", "rack": "file"}

    async def test(host: Host) -> None:
        assert host.current() == {"role": "settings", "rack": "file", "zone": "command"}
        assert host.command.asked == [("metadata", "--all")]
        assert host.changes == [host.current()]
        assert host.command_waits() == [], "it is not asked again"

    run(host, test)


def test_without_a_command_nobody_waits_for_it() -> None:
    """The answer is there as soon as it is looked for."""
    host = Host(AgentSettings(labels=(("role", "web"),)))

    async def test(host: Host) -> None:
        await asyncio.wait_for(host.labels.answered(), 10)
        assert (host.current(), host.changes, host.command.asked) == ({"role": "web"}, [], [])

    run(host, test)


def test_a_command_that_fails_is_asked_again_ever_more_rarely_until_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After 1 min, 2 min and so on up to 15 min. That it fails is said once, that it answers once."""
    caplog.set_level(logging.INFO)
    host = Host(AgentSettings(labels_command="metadata"), *["no route to host"] * 7, {"zone": "a"})

    async def test(host: Host) -> None:
        await asyncio.wait_for(host.labels.answered(), 10)
        waited = []
        while waits := host.command_waits():
            assert host.current() == {}
            waited += waits
            await host.clock.pass_by(waits[0])
        assert waited == [60, 120, 240, 480, 900, 900, 900]
        assert host.changes == [{"zone": "a"}]

    run(host, test)
    assert [record.getMessage() for record in caplog.records] == [
        "labels_command (metadata): no route to host; this host reports without its labels, and it is tried again",
        "labels_command (metadata) has answered",
    ]


def test_the_first_answer_is_waited_for() -> None:
    """A host that starts again does not report without its labels first."""

    async def test() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def ask(_: Sequence[str]) -> Mapping[str, str]:
            asked.set()
            await answer.wait()
            return {"zone": "a"}

        labels = Labels(AgentSettings(labels_command="metadata"), ask, Clock().sleep)
        running = asyncio.ensure_future(labels.run(lambda: None))
        waiting = asyncio.ensure_future(labels.answered())
        await asked.wait()
        await settle()
        assert not waiting.done()
        answer.set()
        await asyncio.wait_for(waiting, 10)
        assert labels.current == (("zone", "a"),)
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(test())


def test_other_settings_have_it_asked_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """What the same command printed before stays until it answers; of another one, nothing stays."""
    host = Host(AgentSettings(labels_command="a"), {"zone": "a"}, "away", {"zone": "b"}, "gone")

    async def test(host: Host) -> None:
        host.labels.configure(AgentSettings(labels_command="a", labels=(("role", "web"),)))
        await settle()
        assert host.current() == {"zone": "a", "role": "web"}
        assert "away; its labels stay as they were" in caplog.text
        await host.clock.pass_by(60)
        assert host.current() == {"zone": "b", "role": "web"}
        host.labels.configure(AgentSettings(labels_command="b"))
        assert host.current() == {}
        await settle()
        assert host.command_waits() == [60]
        assert "gone; this host reports without its labels" in caplog.text
        host.labels.configure(AgentSettings())
        await settle()
        assert host.command_waits() == []
        assert host.command.asked == [("a",), ("a",), ("a",), ("b",)]

    run(host, test)


def test_an_answer_to_what_is_asked_no_more_is_dropped() -> None:
    """The settings have changed while the command ran."""

    async def test() -> None:
        answers: dict[str, asyncio.Future[Mapping[str, str]]] = {}

        async def ask(words: Sequence[str]) -> Mapping[str, str]:
            answers[words[0]] = asyncio.get_running_loop().create_future()
            return await answers[words[0]]

        labels = Labels(AgentSettings(labels_command="old"), ask, Clock().sleep)
        running = asyncio.ensure_future(labels.run(lambda: None))
        await settle()
        labels.configure(AgentSettings(labels_command="new"))
        answers["old"].set_result({"zone": "old"})
        await settle()
        assert not labels.current
        answers["new"].set_result({"zone": "new"})
        await settle()
        assert labels.current == (("zone", "new"),)
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(test())


def test_a_file_that_changes_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that takes its place. One that can not be used is said once, and what it held before stays."""
    file = lines(tmp_path / "labels", "role=web")
    host = Host(AgentSettings(labels_file=file))

    async def look(host: Host) -> dict[str, str]:
        await host.clock.pass_by(FILE_CHECK_SECONDS)
        return host.current()

    async def test(host: Host) -> None:
        assert await look(host) == {"role": "web"}
        assert host.changes == []
        lines(tmp_path / "new", "role=db").rename(file)
        assert await look(host) == {"role": "db"}
        file.write_text("role=db\nrack\n")
        for _ in range(3):
            assert await look(host) == {"role": "db"}
        file.unlink()
        for _ in range(3):
            assert await look(host) == {"role": "db"}
        lines(file, "role=cache")
        assert await look(host) == {"role": "cache"}
        assert host.changes == [{"role": "db"}, {"role": "cache"}]

    run(host, test)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"labels_file: {file}:2: no label; write a label a line, such as role=web: a name of letters, digits, '_', "
        "'.' and '-', and a printable text of at most 255 characters; the labels that it held before stay",
        f"labels_file: cannot read {file}: No such file or directory; the labels that it held before stay",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# ours\n\nrole", "{file}:3: no label; write a label a line"),
        (b"role=\x1b[31m", "{file}:1: no label; write a label a line"),
        ("role=\u202eweb".encode(), "{file}:1: no label; write a label a line"),
        (b"9=a", "{file}:1: no label; write a label a line"),
        (b"role=a\nrole=b", "{file}:2: label role for a second time"),
        (b"x" * 20_000, "{file}:1: longer than a label can be"),
        (b"a=b\n" * 20_000, "{file} is larger than 65,536 bytes"),
        (b"role=\xff", "{file}: not UTF-8 text (byte 5)"),
        ("".join(f"l{i}=\n" for i in range(33)).encode(), "33 labels in all, of labels, labels_file and"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_by_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    """In one line that is safe to show."""
    file = tmp_path / "labels"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        Labels(AgentSettings(labels_file=file))
    assert said.format(file=file) in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2_000


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder; a pipe, which nobody may ever write to; a file that is not there."""
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("", "Is a directory"), ("pipe", "is no file"), ("none", "No such file")):
        with pytest.raises(SettingsError, match=said):
            Labels(AgentSettings(labels_file=tmp_path / name))


def test_a_command_that_can_not_be_split_is_refused() -> None:
    """When the settings are read, not when it is run."""
    with pytest.raises(SettingsError, match=r"labels_command: .* can not be split into words: No closing quotation"):
        Labels(AgentSettings(labels_command="echo 'role"))


def test_settings_that_can_not_be_used_change_nothing(tmp_path: Path) -> None:
    """As other settings that are read again."""
    host = Host(AgentSettings(labels=(("role", "web"),), labels_command="a"), {"zone": "a"})

    async def test(host: Host) -> None:
        with pytest.raises(SettingsError):
            host.labels.configure(AgentSettings(labels_file=tmp_path / "none", labels_command="b"))
        await settle()
        assert host.current() == {"role": "web", "zone": "a"}
        assert host.command.asked == [("a",)]

    run(host, test)


def test_all_sources_together_keep_to_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """32 labels. A command, or a file that has changed, that would exceed it is left out, and that is said."""
    file = lines(tmp_path / "labels", *(f"f{i}=" for i in range(20)))
    settings = AgentSettings(labels=tuple((f"s{i}", "") for i in range(11)), labels_file=file, labels_command="a")
    host = Host(settings, {"zone": "a", "rack": "7"}, {"zone": "a"})

    async def test(host: Host) -> None:
        assert len(host.current()) == 31
        assert "33 labels in all, of labels, labels_file and labels_command; a host has at most 32" in caplog.text
        await host.clock.pass_by(60)
        assert len(host.current()) == 32
        lines(file, *(f"f{i}=" for i in range(21)))
        await host.clock.pass_by(FILE_CHECK_SECONDS)
        assert len(host.current()) == 32
        assert caplog.text.count("33 labels in all") == 2

    run(host, test)


def test_all_sources_are_read_once_for_a_look(tmp_path: Path) -> None:
    """Of a command that fails, with why its labels are not among them."""
    file = lines(tmp_path / "labels", "role=file", "rack=7")
    settings = AgentSettings(labels=(("role", "web"),), labels_file=file, labels_command="echo zone=a")
    found, missing = labels_now(settings)
    assert (dict(found), missing) == ({"role": "web", "rack": "7", "zone": "a"}, None)
    found, missing = labels_now(AgentSettings(labels_file=file, labels_command="false"))
    assert (dict(found), missing) == ({"role": "file", "rack": "7"}, "labels_command (false): its exit status is 1")
    assert labels_now(AgentSettings()) == ((), None)
