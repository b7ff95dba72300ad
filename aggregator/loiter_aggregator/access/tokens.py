"""Bearer tokens: made for a person or a program, for one right, kept as hashes in a file.

The file is JSON, readable by its owner alone: `{"version": 1, "tokens": [{"id", "name", "right", "sha256", "created",
"expires", "revoked"}]}`, times in RFC 3339 or null. A token's secret is 256 random bits, which nobody can guess however
fast the hash is: SHA-256 is enough, where a password would need a slow one, and a slow one would let callers who only
try keep the aggregator busy.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from loiter.files import write_atomically
from loiter.logs import fields
from loiter.transport import TOKEN_PATTERN
from loiter_aggregator.access.files import Watch, locked
from loiter_aggregator.access.principal import Right

_log = logging.getLogger(__name__)

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_VERSION: Final = 1
_MAX_FILE_BYTES: Final = 16_000_000


class TokenFileError(Exception):
    """The file can not be read or written, or is damaged. The message says which."""


class TokenRefused(Exception):
    """A token that lets nobody in. The message says why, and is fit for whoever shows it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: who has it, what it allows, and the SHA-256 of its secret."""

    id: str
    name: str
    right: Right
    sha256: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def refusal(self, now: datetime) -> str | None:
        """Why it lets nobody in; None where it does."""
        if self.revoked is not None:
            return f"token {self.name} was revoked on {self.revoked:%Y-%m-%d %H:%M} UTC"
        if self.expires is not None and self.expires <= now:
            return f"token {self.name} expired on {self.expires:%Y-%m-%d %H:%M} UTC"
        return None


def make_token(name: str, right: Right, expires_seconds: float | None, now: datetime) -> tuple[Token, str]:
    """Draws a new token. Returns it as it is kept, and the text that its holder shows."""
    identity, secret = secrets.token_hex(4), secrets.token_hex(32)
    expires = None if expires_seconds is None else now + timedelta(seconds=expires_seconds)
    return Token(identity, name, right, _hash(secret), now, expires), f"loiter_{identity}_{secret}"


def add(file: Path, name: str, right: Right, expires_seconds: float | None, now: datetime) -> str:
    """Makes a token, keeps it in the file, and returns its text. Raises TokenFileError, as where the name is taken."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise TokenFileError(f"{name!r} is not a name: letters, digits, '.', '_', '@' and '-', 64 at most")
    with _editing(file) as tokens:
        if any(token.name == name and token.refusal(now) is None for token in tokens):
            raise TokenFileError(f"there is a token {name} already; revoke it first, or choose another name")
        taken = {token.id for token in tokens}
        while True:
            token, text = make_token(name, right, expires_seconds, now)
            if token.id not in taken:
                break
        tokens.append(token)
    return text


def revoke(file: Path, name: str, now: datetime) -> None:
    """Revokes the token of a name. Raises TokenFileError where none of that name is in force."""
    with _editing(file) as tokens:
        in_force = [at for at, token in enumerate(tokens) if token.name == name and token.refusal(now) is None]
        if not in_force:
            known = any(token.name == name for token in tokens)
            raise TokenFileError(
                f"token {name} is no longer in force" if known else f"there is no token {name} in {file}"
            )
        for at in in_force:
            tokens[at] = replace(tokens[at], revoked=now)


def load(file: Path) -> tuple[Token, ...]:
    """Reads a file of tokens; none where there is no file. Raises TokenFileError."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise TokenFileError(f"cannot read {file}: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise TokenFileError(f"{file}: larger than {_MAX_FILE_BYTES:,} bytes")
    try:
        return _parse(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise TokenFileError(f"{file}: not a file of tokens: {error}") from None


# The hash of a secret that nobody has: as long as any other, so that it takes as long to compare.
_NOBODYS: Final = "0" * 64


class TokenStore:
    """The tokens of a file as they are now: it is looked at once a second at most, and read when it has changed.

    A file that is damaged while the aggregator runs leaves the tokens of before in force: nobody gets in who could not
    before, and a slip of an editor does not cut off the fleet. It is an error in the log, since what was revoked by it
    is not revoked yet. A file that is removed takes all tokens with it.
    """

    def __init__(
        self,
        file: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the file. Raises TokenFileError where it is there and can not be read. `clock` is in seconds."""
        self._file = file
        self._clock = clock
        self._watch = Watch((file,), monotonic)
        # Once tokens are asked for, removing the file must not open the door again, were it between these two lines.
        self._asked_for = file.exists()
        self._tokens = {token.id: token for token in load(file)}
        self._asked_for = self._asked_for or bool(self._tokens)

    @property
    def asked_for(self) -> bool:
        """Whether callers have to show a token: since there is, or was, a file."""
        self._refresh()
        return self._asked_for

    def check(self, text: str) -> Token:
        """Finds the token that a caller shows. Raises TokenRefused."""
        self._refresh()
        match = re.fullmatch(TOKEN_PATTERN, text)
        if match is None:
            raise TokenRefused("the token is not of the form loiter_…: it is cut short, or of something else")
        if match[1] not in self._tokens:
            self._refresh(at_once=True)  # it may have been made within this second
        token = self._tokens.get(match[1])
        # Compared even where there is none of this id, so that the time taken tells nothing.
        if not hmac.compare_digest(_hash(match[2]), token.sha256 if token is not None else _NOBODYS) or token is None:
            raise TokenRefused("the token is unknown")
        return self._in_force(token)

    def recheck(self, token: Token) -> None:
        """Looks again at a token that was found before. Raises TokenRefused where it is not in force any more."""
        self._refresh()
        now = self._tokens.get(token.id)
        if now is None or now.sha256 != token.sha256:
            raise TokenRefused(f"token {token.name} was removed")
        self._in_force(now)

    def find(self, identity: str) -> Token:
        """Finds a token by its id, for somebody who has shown it before. Raises TokenRefused."""
        self._refresh()
        token = self._tokens.get(identity)
        if token is None:
            raise TokenRefused("the token was removed")
        return self._in_force(token)

    def _in_force(self, token: Token) -> Token:
        refusal = token.refusal(datetime.fromtimestamp(self._clock(), UTC))
        if refusal is not None:
            raise TokenRefused(refusal)
        return token

    def _refresh(self, *, at_once: bool = False) -> None:
        if not self._watch.changed(at_once=at_once):
            return
        try:
            self._tokens = {token.id: token for token in load(self._file)}
        except TokenFileError as error:
            _log.error(
                "%s; the tokens read before stay in force, and what was changed since is not",
                error,
                extra=fields(file=self._file),
            )
            return
        self._asked_for = self._asked_for or self._file.exists()
        facts = fields(file=self._file, tokens=len(self._tokens))
        _log.info("tokens read again: %d in %s", len(self._tokens), self._file, extra=facts)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@contextmanager
def _editing(file: Path) -> Iterator[list[Token]]:
    """Reads the tokens, and writes them as the block leaves them; two that do so at once wait for each other."""
    try:
        # Tokens may well be made before the aggregator has started for the first time.
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(file):
            tokens = list(load(file))
            yield tokens
            write_atomically(file, _serialize(tokens), 0o600)
    except OSError as error:
        raise TokenFileError(f"cannot write {file}: {error.strerror}") from None


def _serialize(tokens: Sequence[Token]) -> bytes:
    rows = [
        {
            "id": token.id,
            "name": token.name,
            "right": token.right.value,
            "sha256": token.sha256,
            "created": _time(token.created),
            "expires": _time(token.expires),
            "revoked": _time(token.revoked),
        }
        for token in tokens
    ]
    return json.dumps({"version": _VERSION, "tokens": rows}, indent=2).encode() + b"\n"


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _parse(document: Any) -> tuple[Token, ...]:
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(f"no object of version {_VERSION}")
    rows = document.get("tokens")
    if not isinstance(rows, list):
        raise ValueError("'tokens' is not a list")
    tokens = tuple(_parse_token(at, row) for at, row in enumerate(rows))
    if len({token.id for token in tokens}) < len(tokens):
        raise ValueError("two tokens have one id")
    return tokens


def _parse_token(at: int, row: Any) -> Token:
    if not isinstance(row, dict):
        raise ValueError(f"tokens[{at}] is not an object")
    try:
        return Token(
            id=_matching(row["id"], "[0-9a-f]{8}"),
            name=_matching(row["name"], NAME_PATTERN),
            right=Right(row["right"]),
            sha256=_matching(row["sha256"], "[0-9a-f]{64}"),
            created=_moment(row["created"]),
            expires=None if row["expires"] is None else _moment(row["expires"]),
            revoked=None if row["revoked"] is None else _moment(row["revoked"]),
        )
    except KeyError as error:
        raise ValueError(f"tokens[{at}] has no {error}") from None
    except ValueError as error:
        raise ValueError(f"tokens[{at}]: {error}") from None


def _matching(value: Any, pattern: str) -> str:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise ValueError(f"{value!r} is not of the form {pattern}")
    return value


def _moment(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    # datetime.astimezone overflows at the ends of its range.
    if not 1970 <= moment.year <= 9_000:
        raise ValueError(f"{value!r} is not between 1970 and 9000")
    return moment.astimezone(UTC)
