"""What a running agent says of itself, in a file and in a line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from loiter_agent.status import Status, headline, status_file, timestamp

STATUS = Status(
    version="0.3.0",
    pid=42,
    updated_at="2026-11-23T00:00:00.500Z",
    interval_seconds=10.0,
    ticks=1_210,
    last_tick_at="2026-11-23T00:00:00.100Z",
    server="aggregator:7433",
    connected=True,
    error=None,
    acknowledged_reports=1_204,
    last_acknowledged_at="2026-11-23T00:00:00.400Z",
    waiting_reports=0,
    lost_reports=0,
    left_out=None,
)


def test_what_is_written_is_read_again_and_everyone_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    for status in (STATUS, replace(STATUS, connected=False, server=None, error="no \x1b way", left_out="no_detail")):
        status.write(file)
        assert Status.read(file) == status
    assert file.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["status.json"]


def test_whoever_reads_while_it_is_written_finds_one_or_the_other(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    STATUS.write(file)
    with file.open() as before:
        replace(STATUS, ticks=2).write(file)
        assert json.load(before)["ticks"] == STATUS.ticks
    assert Status.read(file).ticks == 2


def test_that_of_a_later_agent_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    file.write_text(json.dumps({**asdict(STATUS), "more": [1]}))
    assert Status.read(file) == STATUS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 60_000,
        json.dumps({**asdict(STATUS), "pid": "42"}).encode(),
        json.dumps({**asdict(STATUS), "ticks": True}).encode(),
        json.dumps({**asdict(STATUS), "connected": 1}).encode(),
        json.dumps({**asdict(STATUS), "server": 7}).encode(),
        json.dumps({**asdict(STATUS), "error": "x" * 100_000}).encode(),
    ],
)
def test_anything_else_is_a_value_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "status.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"status\.json: "):
        Status.read(file)


def test_whoever_reads_is_neither_held_up_nor_led_elsewhere(tmp_path: Path) -> None:
    """Root reads what the service's user may have put there."""
    fifo, link, elsewhere = (tmp_path / name for name in ("fifo", "link", "elsewhere"))
    os.mkfifo(fifo)
    STATUS.write(elsewhere)
    link.symlink_to(elsewhere)
    with pytest.raises(ValueError, match="not a file"):
        Status.read(fifo)
    with pytest.raises(OSError, match="symbolic links"):
        Status.read(link)


def test_that_of_an_agent_before_is_read(tmp_path: Path) -> None:
    """Which did not say when its last tick was."""
    file = tmp_path / "status.json"
    file.write_text(json.dumps({name: value for name, value in asdict(STATUS).items() if name != "last_tick_at"}))
    assert Status.read(file) == replace(STATUS, last_tick_at=None)


def test_without_an_agent_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Status.read(tmp_path / "status.json")


@pytest.mark.parametrize(
    ("folders", "file"),
    [
        ("/run/loiter-agent", Path("/run/loiter-agent/status.json")),
        ("/run/loiter-agent:/run/more", Path("/run/loiter-agent/status.json")),
        ("", None),
        ("relative", None),
    ],
)
def test_it_is_written_where_systemd_has_made_a_folder_for_it(folders: str, file: Path | None) -> None:
    assert status_file({"RUNTIME_DIRECTORY": folders}) == file
    assert status_file({}) is None


def test_times_are_in_utc() -> None:
    assert timestamp(1_795_392_000.4) == "2026-11-23T00:00:00.400Z"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (STATUS, "reporting to aggregator:7433, 1,204 reports acknowledged, 0 waiting"),
        (
            replace(STATUS, connected=False, error="UNAVAILABLE: no route", waiting_reports=1_000),
            "cannot report to aggregator:7433 (UNAVAILABLE: no route); 1,000 waiting",
        ),
        (replace(STATUS, connected=False, waiting_reports=1), "connecting to aggregator:7433; 1 waiting"),
        (replace(STATUS, connected=False, server=None), "sampling; 0 waiting"),
        (
            replace(STATUS, left_out="no_detail"),
            "reporting to aggregator:7433, 1,204 reports acknowledged, 0 waiting; over its budget: no_detail",
        ),
    ],
)
def test_a_line_says_how_it_is(status: Status, line: str) -> None:
    assert headline(status) == line
