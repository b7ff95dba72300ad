"""Tokens: made, kept as hashes, checked, revoked while the aggregator runs."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.tokens import TokenFileError, TokenRefused, TokenStore, add, load, revoke
from loiter_aggregator.commands import loiter
from support.programs import BIN, run

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = 86_400.0


@dataclass
class Time:
    """Both clocks of a store, in seconds."""

    wall: float = NOW.timestamp()
    passed: float = 0.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples of a property."""
    return tmp_path_factory.mktemp("tokens")


def opened(file: Path, time: Time) -> TokenStore:
    return TokenStore(file, lambda: time.wall, lambda: time.passed)


def refused(store: TokenStore, text: str) -> str:
    with pytest.raises(TokenRefused) as caught:
        store.check(text)
    return str(caught.value)


def test_a_token_is_kept_as_a_hash_in_a_file_of_its_owner(file: Path) -> None:
    """What is on the disk lets nobody in."""
    text = add(file, "alice", Right.READ, None, NOW)
    secret = text.rpartition("_")[2]
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert opened(file, Time()).check(text).name == "alice"


def test_what_is_no_token_of_the_file_is_unknown(file: Path) -> None:
    """Another secret, another id, and what is no token at all."""
    text = add(file, "alice", Right.READ, None, NOW)
    store = opened(file, Time())
    other = "0" if text[-1] != "0" else "1"
    assert refused(store, text[:-1] + other) == "the token is unknown"
    assert refused(store, f"loiter_00000000_{'0' * 64}") == "the token is unknown"
    assert "cut short" in refused(store, text[:-1])
    assert "cut short" in refused(store, "")


def test_a_token_lets_in_until_it_expires(file: Path) -> None:
    """And says on which day that was."""
    text = add(file, "alice", Right.READ, 90 * DAY, NOW)
    time = Time()
    store = opened(file, time)
    time.pass_(90 * DAY - 1)
    assert store.check(text).right is Right.READ
    time.pass_(1)
    assert refused(store, text) == "token alice expired on 2027-02-20 12:00 UTC"


def test_a_token_is_revoked_without_a_restart(file: Path) -> None:
    """Within a second; one that was checked before is found out as well."""
    text = add(file, "alice", Right.READ, None, NOW)
    time = Time()
    store = opened(file, time)
    token = store.check(text)
    revoke(file, "alice", NOW)
    time.pass_(1)
    assert refused(store, text) == "token alice was revoked on 2026-11-22 12:00 UTC"
    with pytest.raises(TokenRefused, match="was revoked"):
        store.recheck(token)


def test_a_token_that_is_added_is_known_without_a_restart(file: Path) -> None:
    """Also where there was no file before; from then on a token is asked for."""
    time = Time()
    store = opened(file, time)
    assert not store.asked_for
    text = add(file, "alice", Right.INGEST, None, NOW)
    time.pass_(1)
    assert store.asked_for
    assert store.check(text).right is Right.INGEST


def test_a_token_is_known_as_soon_as_it_is_made(file: Path) -> None:
    """Who is handed one uses it at once."""
    add(file, "alice", Right.READ, None, NOW)
    store = opened(file, Time())
    assert store.check(add(file, "bob", Right.READ, None, NOW)).name == "bob"


def test_a_file_that_is_removed_takes_its_tokens_but_opens_no_door(file: Path) -> None:
    """Nobody gets in, rather than everybody."""
    text = add(file, "alice", Right.READ, None, NOW)
    time = Time()
    store = opened(file, time)
    token = store.check(text)
    file.unlink()
    time.pass_(1)
    assert store.asked_for
    assert refused(store, text) == "the token is unknown"
    with pytest.raises(TokenRefused, match="token alice was removed"):
        store.recheck(token)


def test_a_damaged_file_leaves_the_tokens_of_before_in_force(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once; once mended, the file counts again."""
    text = add(file, "alice", Right.READ, None, NOW)
    time = Time()
    store = opened(file, time)
    good = file.read_text()
    file.write_text(good[:-20])
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            time.pass_(1)
            assert store.check(text).name == "alice"
    assert len(caplog.records) == 1
    assert str(file) in caplog.text
    file.write_text(good)
    revoke(file, "alice", NOW)
    time.pass_(1)
    assert "revoked" in refused(store, text)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"[]", "no object of version 1"),
        (b'{"version": 2, "tokens": []}', "no object of version 1"),
        (b'{"version": 1}', "'tokens' is not a list"),
        (b'{"version": 1, "tokens": [7]}', r"tokens\[0\] is not an object"),
        (b'{"version": 1, "tokens": [{"id": "00000000"}]}', r"tokens\[0\] has no 'name'"),
        (b'{"version": 1, "tokens": [{"id": "x"}]}', r"tokens\[0\]: 'x' is not of the form"),
        (b"\xff", "not a file of tokens"),
        (b"[" * 100_000, "not a file of tokens"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(file: Path, content: bytes, why: str) -> None:
    """So that it can be mended."""
    file.write_bytes(content)
    with pytest.raises(TokenFileError, match=why) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_a_name_is_of_one_token_that_is_in_force(file: Path) -> None:
    """Once that is revoked, the name is free again."""
    add(file, "alice", Right.READ, None, NOW)
    with pytest.raises(TokenFileError, match="there is a token alice already"):
        add(file, "alice", Right.INGEST, None, NOW)
    revoke(file, "alice", NOW)
    with pytest.raises(TokenFileError, match="no longer in force"):
        revoke(file, "alice", NOW)
    with pytest.raises(TokenFileError, match="there is no token bob"):
        revoke(file, "bob", NOW)
    text = add(file, "alice", Right.INGEST, None, NOW)
    assert opened(file, Time()).check(text).right is Right.INGEST


def test_two_that_write_at_once_lose_nothing(file: Path) -> None:
    """Each waits for the other."""
    program = (
        "import sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from loiter_aggregator.access.tokens import Right, add\n"
        "for n in range(20):\n"
        "    add(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', Right.READ, None, datetime.now(UTC))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file), name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(load(file)) == 40


@settings(derandomize=True, max_examples=150)
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=30),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["version", "tokens", "id", "name", "right", "sha256", "created", "expires", "revoked"]
                    ),
                    inner,
                    max_size=7,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_file_does_worse_than_a_message(shared_folder: Path, content: bytes) -> None:
    """Whatever is in it."""
    file = shared_folder / "tokens.json"
    file.write_bytes(content)
    with suppress(TokenFileError):
        assert len(load(file)) == len(json.loads(content)["tokens"])


@settings(derandomize=True, max_examples=150)
@given(text=st.text(max_size=100) | st.from_regex(r"loiter_[0-9a-f]{8}_[0-9a-f]{60,66}", fullmatch=True))
def test_no_text_that_was_not_handed_out_lets_in(text: str) -> None:
    """Whatever is shown."""
    with pytest.raises(TokenRefused):
        TokenStore(Path("/nonexistent/tokens.json")).check(text)


def test_a_lock_that_leads_elsewhere_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Root makes tokens in the folder of the service, whose user could have put the link there."""
    (tmp_path / ".tokens.json.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenFileError, match="symbolic links"):
        add(file, "alice", Right.READ, None, NOW)
    assert not (tmp_path / "elsewhere").exists()


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path) -> None:
    """The token goes to standard output, alone, for a script to take. The aggregator need not have run before."""
    folder = tmp_path / "not/yet"

    def token(*words: str) -> Result:
        return CliRunner().invoke(loiter, ["token", *words, "--data-dir", str(folder)])

    made = run([BIN / "loiter", "token", "add", "alice", "--right", "read", "--expires", "90d", "--data-dir", folder])
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    assert TokenStore(folder / "tokens.json").check(text).name == "alice"
    again = token("add", "alice", "--right", "read")
    assert again.exit_code == 1
    assert "there is a token alice already" in again.stderr
    assert text.rpartition("_")[2] not in token("list").stdout
    assert "in force until" in token("list").stdout
    assert token("revoke", "alice").exit_code == 0
    (row,) = json.loads(token("list", "-o", "json").stdout)
    assert (row["name"], row["right"], row["in_force"]) == ("alice", "read", False)
    assert token("revoke", "alice").exit_code == 1
    assert token("add", "bad name", "--right", "read").exit_code == 1
    assert token("add", "bob").exit_code == 2
