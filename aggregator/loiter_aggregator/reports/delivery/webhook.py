"""Delivers a report to a program that takes it by HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from loiter.text import printable
from loiter.version import version
from loiter_aggregator import receivers
from loiter_aggregator.reports.delivery.failure import DeliveryError, is_final, retry_after_seconds
from loiter_aggregator.reports.delivery.outgoing import Outgoing
from loiter_aggregator.reports.delivery.redaction import secrets_of, without
from loiter_aggregator.reports.delivery.signing import webhook_headers
from loiter_aggregator.reports.delivery.slack import slack_message
from loiter_aggregator.reports.file import Webhook, signing_key, webhook_url
from loiter_aggregator.reports.rendering.document import document

_TIMEOUTS: Final = httpx.Timeout(10.0, read=30.0)
_TOTAL_SECONDS: Final = 60.0
# What a receiver says of why it failed.
_MAX_SAID_BYTES: Final = 2_000
_MAX_SAID: Final = 100

# They log addresses, and that of a webhook may be a secret.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def webhook_body(outgoing: Outgoing, webhook: Webhook) -> bytes:
    """What is sent: a message of Slack's, or the event `loiter.report` with the report."""
    if webhook.kind == "slack":
        return json.dumps(slack_message(outgoing.report)).encode()
    content = document(outgoing.report)
    event = {
        "type": "loiter.report",
        "timestamp": content["end_time"],
        "schedule": outgoing.schedule,
        "data": content,
    }
    return json.dumps(event).encode()


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Where to, what to sign with, whom to trust there, and what nobody is to be shown."""

    url: str
    key: bytes | None
    trust: ssl.SSLContext
    secrets: Sequence[str]


async def deliver_to_webhook(outgoing: Outgoing, webhook: Webhook) -> None:
    """Sends it. Raises DeliveryError; its message holds neither the address nor what is secret."""
    try:
        to = await asyncio.to_thread(_receiver, webhook)
    except (ValueError, OSError) as error:
        raise DeliveryError(f"{error}") from None
    body = await asyncio.to_thread(webhook_body, outgoing, webhook)
    headers = {
        "content-type": "application/json",
        "user-agent": f"loiter/{version()}",
        **webhook_headers(f"msg_{outgoing.id}", round(time.time()), body, to.key),
    }
    try:
        async with asyncio.timeout(_TOTAL_SECONDS):
            await _post(to, body, headers)
    except TimeoutError:
        raise DeliveryError(f"no answer within {_TOTAL_SECONDS:.0f} s") from None
    except httpx.TimeoutException as error:
        raise DeliveryError(f"no answer in time ({type(error).__name__})") from None
    except httpx.ConnectError as error:
        raise DeliveryError(f"can not be reached: {_shown(to, str(error))}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryError(_shown(to, str(error)) or type(error).__name__) from None


def _receiver(webhook: Webhook) -> _Receiver:
    url, key = webhook_url(webhook), signing_key(webhook)
    written = () if key is None else (base64.b64encode(key).decode(), key.hex())
    return _Receiver(url, key, receivers.trust(webhook.ca), secrets_of(url, *written))


async def _post(to: _Receiver, body: bytes, headers: Mapping[str, str]) -> None:
    async with (
        httpx.AsyncClient(verify=to.trust, timeout=_TIMEOUTS, follow_redirects=False) as client,
        client.stream("POST", to.url, content=body, headers=headers) as answer,
    ):
        if answer.is_success:
            return
        said = b""
        async for part in answer.aiter_raw():
            said += part
            if len(said) > _MAX_SAID_BYTES:
                break
    status = f"{answer.status_code} {_shown(to, answer.reason_phrase)}".strip()
    if answer.is_redirect:
        raise DeliveryError(
            f"answered {status}; it is not followed elsewhere: write the address that it is at", final=True
        )
    words = _shown(to, _whole(said, to))
    raise DeliveryError(
        f"answered {status}" + (f": {words}" if words else ""),
        final=is_final(answer.status_code),
        retry_after=retry_after_seconds(answer.headers.get("retry-after")),
    )


def _whole(said: bytes, to: _Receiver) -> str:
    """What was said, as far as it was read: of what is cut there may be the beginning of a secret at its end."""
    text = said[:_MAX_SAID_BYTES].decode(errors="replace")
    longest = max(map(len, to.secrets), default=0)
    return " ".join((text if len(said) <= _MAX_SAID_BYTES else text[: -longest or None]).split())


def _shown(to: _Receiver, said: str) -> str:
    """What was said, for a person, without what is secret."""
    return printable(without(to.secrets, said))[:_MAX_SAID]
