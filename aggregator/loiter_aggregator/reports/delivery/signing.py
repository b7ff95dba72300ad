"""Signs what is sent to webhooks, as Standard Webhooks has it (https://www.standardwebhooks.com). Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping


def webhook_headers(message_id: str, timestamp: int, body: bytes, key: bytes | None) -> Mapping[str, str]:
    """The headers of a message. The signature is over its id, the time of this try (seconds), and its body.

    Without a key it is not signed, and still can be told again by its id.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if key is not None:
        signed = f"{message_id}.{timestamp}.".encode() + body
        signature = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(signature).decode()}"
    return headers
