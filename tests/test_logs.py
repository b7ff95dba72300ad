"""The log of both programs: one line each, in the format asked for, and never too many of a kind."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import socket
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from loiter.journal import JournalHandler, encode
from loiter.log_json import JsonFormatter
from loiter.log_limit import LINES, WINDOW_SECONDS, LogLimit
from loiter.log_records import TextFormatter, message_of
from loiter.logs import fields, unlimited
from support.programs import ROOT, run

HOSTILE = "web-1\n\x1b[2J\u202e2026-11-23T00:00:00.000Z ERROR forged"


def record(
    message: str = "reporting to %s",
    *arguments: object,
    level: int = logging.INFO,
    error: BaseException | None = None,
    created: float = 1_795_392_000.5,
    extra: dict[str, object] | None = None,
) -> logging.LogRecord:
    """A record as a call that logs makes it."""
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("loiter_agent.uplink", level, "uplink.py", 1, message, arguments, exc_info)
    made.created = created
    vars(made).update(extra or {})
    return made


def raised(error: Exception) -> Exception:
    """An exception with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


class TestText:
    def test_a_line_has_its_time_its_level_and_its_words(self) -> None:
        line = TextFormatter().format(record("reporting to %s", "a:7433", level=logging.WARNING))
        assert line == "2026-11-23T00:00:00.500Z WARNING reporting to a:7433"

    def test_what_others_wrote_forges_no_line_and_moves_no_cursor(self) -> None:
        line = TextFormatter().format(record("host %s", HOSTILE))
        assert line.isprintable()
        assert r"web-1\n\x1b[2J\u202e2026" in line

    def test_a_traceback_is_indented_beneath_its_line(self) -> None:
        first, *rest = TextFormatter().format(record("a tick failed", error=raised(ValueError(HOSTILE)))).split("\n")
        assert first.endswith("INFO a tick failed")
        assert rest[0].strip() == "Traceback (most recent call last):"
        assert all(line.startswith("    ") and line.isprintable() for line in rest)
        assert not any("\x1b" in line for line in rest)

    def test_what_is_far_too_long_is_cut(self) -> None:
        assert len(message_of(record("%s", "x" * 1_000_000))) < 20_000


class TestJson:
    def test_a_line_is_an_object_with_the_facts_by_their_names(self) -> None:
        line = JsonFormatter().format(
            record("reporting to %s", "a:7433", extra=fields(server="a:7433", waiting=3, seq=None))
        )
        assert json.loads(line) == {
            "time": "2026-11-23T00:00:00.500Z",
            "level": "info",
            "logger": "loiter_agent.uplink",
            "message": "reporting to a:7433",
            "server": "a:7433",
            "waiting": 3,
            "seq": None,
        }

    def test_a_traceback_is_a_key_and_the_message_says_what_it_was(self) -> None:
        line = JsonFormatter().format(record("a tick failed", error=raised(ValueError("no\nway"))))
        assert "\n" not in line
        parsed = json.loads(line)
        assert parsed["message"] == r"a tick failed: ValueError: no\nway"
        assert parsed["exception"].splitlines()[0] == "Traceback (most recent call last):"

    def test_facts_can_be_anything_and_take_no_key_of_the_line(self) -> None:
        line = JsonFormatter().format(record("x", extra=fields(file=Path("/a\ud800"), level="forged", text=HOSTILE)))
        parsed = json.loads(line)
        assert line.isascii()
        assert "\n" not in line
        assert (parsed["level"], parsed["text"]) == ("info", HOSTILE)


def parse_journal(datagram: bytes) -> dict[str, str]:
    """Reads what the journal is sent, by https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        assert name.decode() not in found
        found[name.decode()] = value.decode()
        datagram = rest
    return found


class TestTheJournal:
    def test_an_entry_has_its_severity_and_the_facts_as_fields(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
            journald.bind(str(tmp_path / "socket"))
            handler = JournalHandler("loiter-agent", tmp_path / "socket")
            handler.emit(record("to %s", "a:1", level=logging.ERROR, extra=fields(server="a:1", host_id=None)))
            handler.close()
            assert parse_journal(journald.recv(100_000)) == {
                "MESSAGE": "to a:1",
                "PRIORITY": "3",
                "SYSLOG_IDENTIFIER": "loiter-agent",
                "LOITER_LOGGER": "loiter_agent.uplink",
                "LOITER_SERVER": "a:1",
            }

    @pytest.mark.parametrize(
        ("level", "priority"),
        [
            (logging.DEBUG, "7"),
            (logging.INFO, "6"),
            (logging.WARNING, "4"),
            (logging.ERROR, "3"),
            (logging.CRITICAL, "2"),
        ],
    )
    def test_severities_are_those_of_syslog(self, level: int, priority: str) -> None:
        assert parse_journal(encode("loiter", record("x", level=level)))["PRIORITY"] == priority

    def test_a_traceback_keeps_its_lines_and_no_value_forges_a_field(self) -> None:
        entry = parse_journal(
            encode("loiter", record("failed", error=raised(ValueError("no")), extra=fields(reason="a\nPRIORITY=0\n")))
        )
        assert entry["MESSAGE"] == "failed: ValueError: no"
        assert entry["PRIORITY"] == "6"
        assert entry["LOITER_REASON"] == "a\nPRIORITY=0\n"
        assert len(entry["LOITER_EXCEPTION"].splitlines()) > 2

    def test_an_entry_always_fits_into_one_datagram(self) -> None:
        """Of the least that the kernel allows by default (net.core.wmem_default)."""
        long = "\U0001f4a9" * 1_000_000
        entry = encode(
            "loiter", record("%s", long, error=raised(ValueError(long)), extra=fields(server=long, reason=long))
        )
        assert len(entry) < 212_992

    def test_without_journald_lines_go_to_standard_error_with_their_severity(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        handler = JournalHandler("loiter-agent", tmp_path / "nobody")
        handler.emit(record("to %s", HOSTILE, level=logging.ERROR, error=raised(ValueError("no"))))
        handler.close()
        first, *rest = capfd.readouterr().err.splitlines()
        assert first == r"<3>to web-1\n\x1b[2J\u202e2026-11-23T00:00:00.000Z ERROR forged: ValueError: no"
        assert rest
        assert all(line.startswith("<3>") for line in rest)

    def test_what_nobody_reads_is_dropped_and_counted_and_holds_nobody_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As where journald hangs, which reads standard error, too."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4_096)
        os.set_blocking(write_end, True)
        monkeypatch.setattr("loiter.journal._TIMEOUT_SECONDS", 0.01)
        handler = JournalHandler("loiter-agent", tmp_path / "nobody")
        with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "w") as full:
            monkeypatch.setattr(sys, "stderr", full)
            for _ in range(2):
                handler.emit(record("x"))
            os.read(read_end, 1 << 20)
            handler.emit(record("y"))
            full.close()
            assert reader.read() == b"<6>y\n<4>2 messages before this are lost: nobody took them\n"
        handler.close()


class Log:
    """A log that is limited, with a clock that is moved, and timers that go off by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.limit = LogLimit(self._write, lambda: self.now, self._later)

    def say(self, made: logging.LogRecord) -> None:
        if self.limit.filter(made):
            self._write(made)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer[0] <= end]:
            timer = min(due, key=lambda one: one[0])
            self._timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = end

    def _write(self, made: logging.LogRecord) -> None:
        self.lines.append(made.getMessage())

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append((self.now + seconds, call))
        assert len(self._timers) == 1, "one timer is enough"


class TestTheLimit:
    def test_five_of_a_kind_are_written_and_then_how_many_more_there_were(self) -> None:
        log = Log()
        for number in range(LINES + 37):
            log.say(record("collector %s failed", number, level=logging.ERROR))
        assert log.lines == [f"collector {number} failed" for number in range(LINES)]
        log.pass_time(WINDOW_SECONDS)
        assert log.lines[LINES:] == ["37 more within a minute, the last: collector 41 failed"]
        log.pass_time(10 * WINDOW_SECONDS)
        assert len(log.lines) == LINES + 1, "said once"

    def test_the_next_minute_begins_anew(self) -> None:
        log = Log()
        for _ in range(3):
            for _ in range(LINES):
                log.say(record("x"))
            log.pass_time(WINDOW_SECONDS)
        assert log.lines == ["x"] * 3 * LINES

    def test_one_that_comes_before_the_timer_has_the_count_before_it(self) -> None:
        """As where the process was stopped meanwhile."""
        log = Log()
        for _ in range(LINES + 2):
            log.say(record("x"))
        log.now += WINDOW_SECONDS
        log.say(record("x"))
        assert log.lines[LINES:] == ["2 more within a minute, the last: x", "x"]
        log.pass_time(WINDOW_SECONDS)
        assert len(log.lines) == LINES + 2

    def test_kinds_and_severities_are_counted_apart(self) -> None:
        log = Log()
        for _ in range(2 * LINES):
            log.say(record("x"))
            log.say(record("y"))
            log.say(record("x", level=logging.ERROR))
        assert len(log.lines) == 3 * LINES
        log.pass_time(WINDOW_SECONDS)
        assert sorted(log.lines[3 * LINES :]) == sorted(
            f"{LINES} more within a minute, the last: {words}" for words in ("x", "y", "x")
        )

    def test_messages_for_debugging_and_those_that_others_limit_are_all_written(self) -> None:
        log = Log()
        for _ in range(100):
            log.say(record("x", level=logging.DEBUG))
            log.say(record("x", extra=unlimited(peer="a")))
        assert len(log.lines) == 200

    def test_what_was_not_written_is_said_at_the_end(self) -> None:
        log = Log()
        for _ in range(LINES + 1):
            log.say(record("x"))
        log.limit.say_the_rest()
        log.limit.say_the_rest()
        assert log.lines[LINES:] == ["1 more within a minute, the last: x"]

    def test_any_number_of_kinds_takes_bounded_memory_and_none_is_lost_without_a_word(self) -> None:
        log = Log()
        for number in range(2_000):
            for _ in range(LINES + 1):
                log.say(record(f"kind {number}"))
        assert len(log.limit._windows) <= 500
        log.pass_time(WINDOW_SECONDS)
        assert sum("more within a minute" in line for line in log.lines) == 2_000

    def test_a_timer_that_can_not_be_started_is_tried_again_with_the_next_message(self) -> None:
        """As where a process may have no more threads. Who logs hears nothing of it."""
        log = Log()
        later, refusals = log.limit._later, [RuntimeError("can't start new thread")] * 2

        def refused(seconds: float, call: Callable[[], None]) -> None:
            if refusals:
                raise refusals.pop()
            later(seconds, call)

        log.limit._later = refused
        for _ in range(LINES + 3):
            log.say(record("x"))
        log.pass_time(WINDOW_SECONDS)
        assert log.lines[LINES:] == ["3 more within a minute, the last: x"]

    @pytest.mark.parametrize("where", ["in the arguments", "as the message"])
    def test_words_that_can_not_be_made_do_not_hurt_who_logs_them(self, where: str) -> None:
        """Nor what is counted of them, which others say."""

        class Wordless:
            def __str__(self) -> str:
                raise ValueError("no words")

        said: list[str] = []
        limit = LogLimit(lambda made: said.append(made.getMessage()), lambda: 0.0, lambda *_: None)
        broken = record("x %s", Wordless()) if where == "in the arguments" else record(Wordless())  # type: ignore[arg-type]
        passed = [limit.filter(broken) for _ in range(LINES + 1)]
        limit.say_the_rest()
        if where == "in the arguments":
            assert passed == [True] * LINES + [False]
            assert said == ["1 more within a minute, the last: x %s (ValueError: its words can not be made)"]
        else:
            assert all(passed)

    def test_the_facts_of_the_last_come_with_the_count(self) -> None:
        said: list[logging.LogRecord] = []
        limit = LogLimit(said.append, lambda: 0.0, lambda *_: None)
        for number in range(LINES + 2):
            limit.filter(record("x", extra=fields(server=f"s{number}")))
        limit.say_the_rest()
        assert json.loads(JsonFormatter().format(said[0]))["server"] == f"s{LINES + 1}"
        assert json.loads(JsonFormatter().format(said[0]))["suppressed"] == 2


PROGRAM = """
import logging, sys, threading, warnings
from loiter import logs
logs.configure("loiter-agent", sys.argv[1], "info")
log = logging.getLogger("loiter_agent")
log.info("up %s", "a\\nb", extra=logs.fields(server="a:1"))
log.debug("not heard")
logs.configure("loiter-agent", sys.argv[1], "debug")
log.debug("heard")
for _ in range(8):
    log.warning("again")
warnings.warn("old", DeprecationWarning)
warnings.simplefilter("always")
warnings.warn("old\\nway", UserWarning)
thread = threading.Thread(target=lambda: 1 / 0, name="sampler")
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise ValueError("unheard")
Broken()
raise KeyError("the end")
"""


def program(log_format: str) -> list[str]:
    """What a program writes to standard error that logs in a format, and ends by a mistake."""
    done = run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), log_format])
    assert done.returncode == 1
    return done.stderr.splitlines()


def test_whatever_a_program_says_is_json() -> None:
    """Warnings, mistakes in threads and in the end too; settings that are read again take effect at once."""
    lines = [json.loads(line) for line in program("json")]
    assert lines[0] == {
        "time": lines[0]["time"],
        "level": "info",
        "logger": "loiter_agent",
        "message": r"up a\nb",
        "server": "a:1",
    }
    messages = [(line["level"], line["message"].partition(" (")[0]) for line in lines]
    assert messages == [
        ("info", r"up a\nb"),
        ("debug", "heard"),
        *[("warning", "again")] * LINES,
        ("warning", r"UserWarning: old\nway"),
        ("error", "thread sampler ended by a mistake in the program: ZeroDivisionError: division by zero"),
        ("error", messages[9][1]),
        ("critical", "ended by a mistake in the program: KeyError: 'the end'"),
        ("warning", f"{8 - LINES} more within a minute, the last: again"),
    ]
    assert "Broken.__del__" in messages[9][1]
    assert "ValueError: unheard" in lines[9]["message"]
    assert all("Traceback" in line["exception"] for line in lines[8:11])


def test_elsewhere_than_in_a_service_lines_are_text() -> None:
    lines = program("auto")
    assert lines[0].endswith(r"INFO up a\nb")
    assert [line for line in lines if not line.startswith("    ")][-2].endswith(
        "CRITICAL ended by a mistake in the program"
    )


@pytest.mark.parametrize("ours", [True, False])
def test_in_a_service_lines_are_for_the_journal(tmp_path: Path, ours: bool) -> None:
    """Where standard error is the stream that systemd says it has connected to the journal, and only there."""
    code = "from loiter import logs; import logging; logs.configure('x', 'auto', 'info'); logging.info('up')"
    with (tmp_path / "stream").open("wb") as stream:
        status = os.fstat(stream.fileno() if ours else 0)
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        script = tmp_path / "program.py"
        script.write_text(f"import os\nos.dup2(os.open({stream.name!r}, os.O_WRONLY), 2)\n{code}\n")
        assert run([sys.executable, script], environment).returncode == 0
    said = (tmp_path / "stream").read_text()
    if not ours:
        assert said.endswith("INFO up\n")
    elif Path("/run/systemd/journal/socket").exists():
        assert said == ""
    else:
        assert said == "<6>up\n"


def test_a_program_that_is_aborted_says_where_its_threads_were() -> None:
    """As the watchdog of systemd aborts one that hangs. It ends by the signal, at once."""
    code = "import os; from loiter import logs; logs.configure('x', 'text', 'info'); os.abort()"
    done = run([sys.executable, "-c", code])
    assert done.returncode == -6
    assert "Fatal Python error: Aborted" in done.stderr
    assert 'File "<string>", line 1 in <module>' in done.stderr


def _facts_of(source: str) -> set[str]:
    """The names of the facts that a module hands over to the log."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {
        call: call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "") for call in calls
    }
    return {
        keyword.arg
        for call, name in names.items()
        for keyword in call.keywords
        if keyword.arg and (name in ("fields", "unlimited", "facts") or (name == "say" and len(call.args) == 2))
    }


def test_every_field_is_documented_and_no_other() -> None:
    modules = [path for folder in ("agent", "aggregator", "proto") for path in (ROOT / folder).rglob("*.py")]
    facts = set().union(*(_facts_of(path.read_text()) for path in modules)) | {"suppressed"}
    page = (ROOT / "docs/operate/logs.md").read_text()
    table = page.partition("## Fields")[2].partition("## How often")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall("`([a-z_]+)`", row)} == facts
