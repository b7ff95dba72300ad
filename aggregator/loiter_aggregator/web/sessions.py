"""Logins: a cookie that names a token and says until when, signed, so that nobody but us can make one.

The token itself is neither in the cookie nor kept by the browser. The cookie counts for as long as the token does, and
until it is logged out with.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import Request
from starlette.responses import Response

from loiter.files import write_atomically
from loiter_aggregator.access.tokens import Token
from loiter_aggregator.clock import Clock

_log = logging.getLogger(__name__)

_KEY_BYTES: Final = 32
# The browser keeps the cookie for longer than it counts, so that the page can say why one has to log in again.
_KEPT_SECONDS: Final = 7 * 86_400
# Logins that were logged out of: of more, those longest ago are forgotten.
_MAX_ENDED: Final = 10_000


class SessionEnded(Exception):
    """The login is over. The message says why, and is for whoever had it."""


@dataclass(frozen=True, slots=True)
class Session:
    """A login: a token's id, what tells it from another of the same id, until when in seconds, and what is its own."""

    token_id: str
    fingerprint: str
    until: int
    nonce: str


class Sessions:
    """Writes and reads the cookies of logins."""

    def __init__(self, key: bytes, seconds: float, port: str, clock: Clock) -> None:
        """Takes the key to sign with, how long a login lasts, and the port.

        Browsers keep cookies by host and not by port: two aggregators on one host would log each other's readers out.
        """
        self._serializer = URLSafeSerializer(
            key, "loiter session", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )
        self._seconds = seconds
        self._port = port
        self._clock = clock
        # The nonces of those that were logged out of. No clock says when to forget one: it may be set back after that.
        self._ended: dict[str, None] = {}

    def open(self, token: Token, request: Request, response: Response) -> None:
        """Logs the holder of a token in."""
        until = self._clock() // 1_000 + round(self._seconds)
        response.set_cookie(
            self._name(request),
            self._serializer.dumps([token.id, fingerprint(token), until, secrets.token_urlsafe(9)]),
            max_age=round(self._seconds) + _KEPT_SECONDS,
            path="/",
            secure=_is_encrypted(request),
            httponly=True,
            samesite="lax",  # a link in a chat is to work
        )

    def close(self, request: Request, response: Response) -> None:
        """Logs out: takes the cookie from the browser, and no copy of it counts from then on, until a restart."""
        with suppress(SessionEnded):
            if (session := self.read(request)) is not None:
                if len(self._ended) >= _MAX_ENDED:
                    del self._ended[next(iter(self._ended))]
                self._ended[session.nonce] = None
        response.delete_cookie(
            self._name(request), path="/", secure=_is_encrypted(request), httponly=True, samesite="lax"
        )

    def read(self, request: Request) -> Session | None:
        """Whose login a request is of; None without. Raises SessionEnded where its time is over."""
        cookie = request.cookies.get(self._name(request))
        if cookie is None:
            return None
        try:
            session = Session(*self._serializer.loads(cookie))
        except (BadSignature, ValueError, TypeError):
            return None
        if session.until * 1_000 <= self._clock():
            raise SessionEnded("Your login has ended, as it does after a while. Please log in again.")
        if session.nonce in self._ended:
            raise SessionEnded("You have logged out. Please log in again.")
        return session

    def _name(self, request: Request) -> str:
        """Under TLS a name that browsers let nobody set but this very host, by TLS."""
        return f"{'__Host-' if _is_encrypted(request) else ''}loiter-{self._port}"


def fingerprint(token: Token) -> str:
    """What tells a token from one that was made with the same id after it was removed."""
    return token.sha256[:16]


def signing_key(data_dir: Path) -> bytes:
    """Reads the key that logins are signed with, which is made once.

    Raises:
        OSError: It can neither be read nor written; the message says which file.
    """
    file = data_dir / "web.key"
    try:
        key = bytes.fromhex(file.read_text("ascii"))
        if len(key) == _KEY_BYTES:
            return key
        _log.warning("%s is not a key of ours, and is made anew: everyone has to log in again", file)
    except FileNotFoundError:
        pass
    except ValueError:
        _log.warning("%s is not a key of ours, and is made anew: everyone has to log in again", file)
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror}") from None
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(file, key.hex().encode() + b"\n", 0o600)
    except OSError as error:
        raise OSError(f"cannot write {file}: {error.strerror}") from None
    return key


def _is_encrypted(request: Request) -> bool:
    return request.url.scheme == "https"
