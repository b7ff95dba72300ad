"""`loiter top --watch` on a real terminal: what is on the screen, and what is left of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.programs import BIN, Aggregator, Command, running, wait_until
from support.synthetic_fleet import HOSTILE, SILENT, write_past
from support.terminals import PROMPT, Terminal, terminal
from support.watched_fleet import synthetic_hosts

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None, reason="tmux is not installed; on Debian: apt-get install tmux"
)
WRITTEN = r"<script>alert(1)</script>\x1b[2J=cmd()"
# Colours beyond the sixteen that every terminal has, and every reader can set.
MANY_COLOURS = re.compile(r"\x1b\[[0-9;]*[34]8;[25];")
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|4[0-7]|9[0-7]|10[0-7])m")


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregator]:
    """An aggregator with an hour of made-up hosts, to which they go on to report."""
    folder = tmp_path_factory.mktemp("terminal")
    write_past(folder / "store")
    one = Aggregator(folder)
    one.start()
    try:
        with synthetic_hosts(folder, one.server):
            yield one
    finally:
        one.stop()


@pytest.fixture
def screen(aggregator: Aggregator, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal of 80 by 24 whose shell knows the aggregator."""
    with terminal(tmp_path, environment={"LOITER_SERVER": aggregator.server}) as one:
        yield one


def watch(screen: Terminal, what: str = "hosts") -> psutil.Process:
    """Starts the live view, and returns its process once there is a ranking."""
    screen.type(f"echo before; loiter top {what} --watch; echo left with $?")
    screen.shows(f"{what} by close-wait-growth", "GROWTH/h", "hosts reporting")
    shell = psutil.Process(int(screen.tmux("display-message", "-p", "#{pane_pid}")))
    return next(one for one in shell.children(recursive=True) if "top" in one.cmdline())


def is_as_before(screen: Terminal) -> bool:
    """What stood on the screen stands there again, the cursor is seen, and what is typed, too."""
    text = screen.shows("before", "left with 0", PROMPT)
    screen.type("stty -a | grep -ow echo; stty -a | grep -ow icanon")
    screen.shows("\necho\n", "icanon")
    return "GROWTH/h" not in text and not screen.is_full_screen() and screen.shows_cursor()


def test_the_ranking_is_sorted_filtered_and_looked_into(screen: Terminal) -> None:
    """By keys; the screen is then as it was."""
    watch(screen)
    text = screen.shows("web-1", SILENT, "? help  q quit")
    assert WRITTEN[:20] in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    screen.press("2", "s")
    screen.shows("processes by stuck", "order-api")
    screen.press("/")
    screen.press("-l", "web-1")
    screen.shows('"web-1"')
    screen.press("Enter")
    assert "web-2" not in screen.shows("order-api", "? help")
    screen.press("Enter")
    screen.shows("process 485 on web-1", "It leaks")
    screen.press("Escape")
    screen.shows("processes by stuck")
    screen.press("1")
    screen.press("?")
    screen.shows("this help", "look into")
    screen.press("q")
    screen.shows("hosts by stuck")
    screen.press("q")
    assert is_as_before(screen)


def test_a_name_does_nothing_to_a_terminal_that_would_obey(screen: Terminal) -> None:
    """On the page of the host, too."""
    screen.resize(200, 50)
    watch(screen)
    screen.press("/")
    screen.tmux("send-keys", "-l", "script")
    screen.press("Enter")
    screen.shows(f"1 {WRITTEN}")
    screen.press("Enter")
    assert HOSTILE not in screen.shows(f"host {WRITTEN}", "ESTAB")
    screen.press("q")
    assert is_as_before(screen)


def test_it_is_readable_in_any_size(screen: Terminal) -> None:
    """From small to large and back, while it is shown."""
    watch(screen)
    screen.resize(40, 10)
    wait_until(lambda: max(map(len, screen.screen().splitlines())) <= 40, 10, "narrow")
    assert "1,1" not in screen.shows("web-1", "CLOSE_WAIT", "? help").splitlines()[-1]
    screen.resize(300, 100)
    screen.shows("LAST REPORT", "LABELS", "role=web")
    screen.resize(80, 24)
    wait_until(lambda: "LABELS" not in screen.screen(), 10, "narrow again")
    screen.shows("web-1", "FD%")
    screen.press("q")
    assert is_as_before(screen)


def test_a_server_that_goes_away_and_comes_back(screen: Terminal, aggregator: Aggregator) -> None:
    """The last answer stays, as stale; then it goes on by itself."""
    watch(screen)
    assert aggregator.stop(signal.SIGKILL) == -signal.SIGKILL
    screen.shows("STALE", "no aggregator answers at", "web-1", "GROWTH/h")
    screen.press("Down", "Down")
    aggregator.start()
    screen.shows("UTC, every 2 s")
    wait_until(lambda: "no aggregator" not in screen.screen(), 10, "recovered")
    screen.press("q")
    assert is_as_before(screen)


def test_an_aggregator_that_hangs_keeps_no_key_waiting(screen: Terminal, aggregator: Aggregator) -> None:
    """It is said that an answer is waited for, and it can be left at once."""
    watch(screen)
    aggregator.program.process.send_signal(signal.SIGSTOP)
    try:
        screen.shows("asking, ")
        screen.press("?")
        screen.shows("this help")
        screen.press("q", "q")
        since = time.monotonic()
        assert is_as_before(screen)
        assert time.monotonic() - since < 5
    finally:
        aggregator.program.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(screen: Terminal, number: signal.Signals) -> None:
    """And is no failure."""
    watch(screen).send_signal(number)
    assert is_as_before(screen)


def test_it_ends_with_its_terminal(screen: Terminal) -> None:
    """A window that is closed leaves no process behind."""
    process = watch(screen)
    screen.tmux("kill-session")
    process.wait(10)


def test_ctrl_z_leads_to_the_shell_and_back(screen: Terminal) -> None:
    """As with any program."""
    watch(screen)
    screen.press("C-z")
    wait_until(lambda: not screen.is_full_screen(), 10, "the shell's screen")
    screen.type("fg")
    screen.shows("hosts by close-wait-growth", "web-1")
    screen.press("C-c")
    wait_until(lambda: not screen.is_full_screen(), 10, "left")


def test_the_terminal_s_own_colours_are_used(screen: Terminal) -> None:
    """Sixteen at most, so that it is readable on any background."""
    watch(screen)
    painted = screen.painted()
    assert not MANY_COLOURS.search(painted)
    assert re.search(r"\x1b\[(?:[0-9;]*;)?7m1\b", painted), "the first row is marked"
    screen.press("q")
    assert is_as_before(screen)


def test_without_colours_nothing_is_lost(screen: Terminal, aggregator: Aggregator) -> None:
    """NO_COLOR: what is marked is reversed, and what is wrong is said."""
    screen.type("export NO_COLOR=1")
    watch(screen)
    aggregator.stop()
    try:
        screen.shows("STALE", "no aggregator answers")
        assert not COLOUR.search(screen.painted())
    finally:
        aggregator.start()
    screen.press("q")
    assert is_as_before(screen)


@pytest.mark.parametrize("command", ["loiter top hosts --watch | head -n 4", "TERM=dumb loiter top hosts --watch"])
def test_without_a_terminal_it_prints_again_and_again(screen: Terminal, command: str) -> None:
    """Into a pipe, and on a terminal that can not be drawn on."""
    screen.type(command)
    text = screen.shows("hosts by close-wait-growth", "GROWTH/h", "web-1")
    assert "? help" not in text
    assert not screen.is_full_screen()
    screen.press("C-c")
    wait_until(lambda: screen.screen().rstrip().endswith(PROMPT), 10, "the shell is back")


def test_a_token_that_is_revoked_is_said(aggregator: Aggregator, screen: Terminal, tmp_path: Path) -> None:
    """The last answer stays."""
    data = aggregator.folder / "store"
    token = tmp_path / "token"
    screen.type(f"loiter token add watcher --right read --data-dir {data} > {token}; echo made")
    screen.shows("\nmade")
    screen.type(f"export LOITER_TOKEN_FILE={token}")
    watch(screen)
    command: Command = [BIN / "loiter", "token", "revoke", "watcher", "--data-dir", data]
    with running(command, tmp_path / "revoke.log") as revoking:
        assert revoking.process.wait(20) == 0
    screen.shows("STALE", "lets nobody in without a good token", "web-1")
    screen.press("q")
    assert is_as_before(screen)
    os.remove(data / "tokens.json")
