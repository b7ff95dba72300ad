"""Pushes alerts to one Alertmanager, by version 2 of its API (api/v2/openapi.yaml of prometheus/alertmanager)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from loiter.logs import fields
from loiter.text import printable
from loiter_aggregator.alerts.outbox import Outbox
from loiter_aggregator.alerts.settings import AlertmanagerSettings, EvaluationSettings
from loiter_aggregator.alerts.state import Alert
from loiter_aggregator.alerts.words import cause, hosts, link, summary
from loiter_aggregator.background import Mistakes
from loiter_aggregator.clock import Clock, boot_clock
from loiter_aggregator.links import Links
from loiter_aggregator.output.rows import cause_name
from loiter_aggregator.receivers import read_secret, trust

_log = logging.getLogger(__name__)

_PATH: Final = "/api/v2/alerts"
# In one request; Prometheus sends as many.
_BATCH: Final = 64
# Its clock and ours may differ by so much: the header Date is of whole seconds, and on its way for a while.
_TOLERATED_MS: Final = 10_000
_MAX_SAID_BYTES: Final = 4_096
_MAX_SAID_CHARS: Final = 200


# The answers that say that something is wrong with an alert, and not with the push or with who pushes.
_REFUSED: Final = frozenset(
    {httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY}
)


class PushError(Exception):
    """An Alertmanager did not take alerts. The message says why."""


class RefusedError(PushError):
    """An Alertmanager will not have one of the alerts, however often it is pushed."""


class Alertmanager:
    """Keeps one Alertmanager told."""

    def __init__(
        self,
        settings: AlertmanagerSettings,
        evaluation: EvaluationSettings,
        links: Links,
        clock: Clock,
        steady_clock: Clock = boot_clock,
    ) -> None:
        """Takes where it is, when alerts are resent and expire, where links lead, the clock, and a steady one."""
        self.url = settings.url
        self.last_success: int | None = None
        self.error = ""
        self._is_failing = False
        self._refusal = ""
        self._mistakes = Mistakes()
        self.pushes = 0
        self.failures = 0
        self._settings = settings
        self._expires = round(1_000 * evaluation.expires)
        self._links = links
        self._clock, self._steady_clock = clock, steady_clock
        # What to add to our steady clock to have the time by which the alerts are that were offered last, and to have
        # that by its clock; None while it has not answered.
        self._ours = clock() - steady_clock()
        self._its: int | None = None
        self._outbox = Outbox(evaluation.resend)
        self._offered = asyncio.Event()

    def offer(self, alerts: Iterable[Alert]) -> None:
        """Takes the alerts that there are now."""
        self._ours = self._clock() - self._steady_clock()
        self._outbox.offer(alerts)
        self._offered.set()

    async def run(self) -> None:
        """Pushes what is due until it is cancelled."""
        passed = asyncio.get_running_loop().time
        async with self.connection() as client:
            while True:
                self._offered.clear()
                pause = self._outbox.pause(passed())
                if pause != 0.0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self._offered.wait()
                    continue
                await self.push_due(client)

    def connection(self) -> httpx.AsyncClient:
        """What to push by. It follows nobody elsewhere, and knows no proxies and passwords of the environment's."""
        return httpx.AsyncClient(
            verify=trust(self._settings.ca), timeout=self._settings.timeout, follow_redirects=False, trust_env=False
        )

    async def push_due(self, client: httpx.AsyncClient) -> None:
        """Pushes what is due now, in bounded numbers, until the receiver does not answer or takes none.

        What it refuses is pushed by itself, so that the others arrive.
        """
        due = self._outbox.due(asyncio.get_running_loop().time())
        refused = [alert for alert in due if self._outbox.was_refused(alert)]
        others = [alert for alert in due if not self._outbox.was_refused(alert)]
        batches = deque(others[start : start + _BATCH] for start in range(0, len(others), _BATCH))
        batches.extend([alert] for alert in refused)
        in_a_row = 0
        while batches:
            batch = batches.popleft()
            try:
                if not await self._tell(client, batch):
                    return
                in_a_row = 0
            except RefusedError as error:
                if len(batch) > 1:
                    batches.extendleft([alert] for alert in reversed(batch))
                    continue
                self._note_refusal(batch[0], str(error))
                in_a_row += 1
                if in_a_row == _BATCH:  # it is not about these alerts
                    self._note_failure((), str(error), asyncio.get_running_loop().time())
                    return

    async def _tell(self, client: httpx.AsyncClient, batch: Sequence[Alert]) -> bool:
        """Pushes alerts, and notes what became of that: False where they were not taken. Raises RefusedError."""
        passed = asyncio.get_running_loop().time
        self.pushes += 1
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._push(client, batch)
        except RefusedError:
            raise
        except (TimeoutError, httpx.TimeoutException):
            self._note_failure(batch, "it did not answer in time", passed())
        except (httpx.HTTPError, PushError, ValueError) as error:
            self._note_failure(batch, str(error) or type(error).__name__, passed())
        except Exception as error:
            self._mistakes.note(f"a push of alerts to {self.url} ended", error)
            self._note_failure(batch, f"{type(error).__name__}, a mistake of loiter's; its log says more", passed())
        else:
            self._note_success(batch, passed())
            return True
        return False

    async def _push(self, client: httpx.AsyncClient, alerts: Sequence[Alert]) -> None:
        """Pushes by its clock: where ours is behind, what fires would be over there."""
        ahead = self._ahead()
        await self._post(client, alerts, ahead)
        if abs(self._ahead() - ahead) > _TOLERATED_MS:  # that is known by its answer alone
            await self._post(client, alerts, self._ahead())

    def _ahead(self) -> int:
        """How far its clock is ahead of ours, in milliseconds; 0 where that is little, or not known."""
        ahead = 0 if self._its is None else round(self._its - self._ours, -3)
        return ahead if abs(ahead) > _TOLERATED_MS else 0

    def _hear(self, date: int) -> None:
        """Takes in what its clock shows; how long the answer took is no reason to tell it of other times."""
        its = date - self._steady_clock()
        if self._its is None or abs(its - self._its) > _TOLERATED_MS:
            self._its = its

    async def _post(self, client: httpx.AsyncClient, alerts: Sequence[Alert], ahead: int) -> None:
        now = self._steady_clock() + self._ours
        body = [to_post(alert, self._links, now, self._expires, ahead) for alert in alerts]
        headers, auth = self._credentials()
        headers["Accept-Encoding"] = "identity"  # what it says is read as it comes
        async with client.stream("POST", self.url + _PATH, json=body, headers=headers, auth=auth) as response:
            date = _date(response)
            if date is not None:
                self._hear(date)
            said = await _said(response)
            if response.status_code != httpx.codes.OK:
                kind = RefusedError if response.status_code in _REFUSED else PushError
                raise kind(f"it answers {response.status_code}{said}")
            if said:  # where an Alertmanager takes alerts, it says nothing
                raise PushError(f"what answers is no Alertmanager, but a page of a proxy or another program{said}")

    def _credentials(self) -> tuple[dict[str, str], httpx.BasicAuth | None]:
        """What to show, read each time as files are replaced. Raises ValueError."""
        settings = self._settings
        if settings.token_file is not None:
            return {"Authorization": f"Bearer {read_secret(settings.token_file)}"}, None
        if settings.user is not None and settings.password_file is not None:
            return {}, httpx.BasicAuth(settings.user, read_secret(settings.password_file))
        return {}, None

    def _note_success(self, batch: Sequence[Alert], now: float) -> None:
        self._outbox.took(batch, now)
        self.last_success = self._clock()
        if self._is_failing:
            _log.info("alerts are pushed to %s again", self.url, extra=fields(server=self.url))
        self._is_failing = False
        self.error = self._refusal if self._outbox.refused else ""

    def _note_refusal(self, alert: Alert, reason: str) -> None:
        """Takes note of an alert that is not taken, which is logged once."""
        self.failures += 1
        if not self._outbox.was_refused(alert):
            _log.warning(
                "%s refuses the alert %s of %s: %s; the others are pushed",
                self.url,
                alert.rule,
                printable(alert.subject.app or alert.subject.host),
                reason,
                extra=fields(server=self.url, rule=alert.rule, reason=reason),
            )
        self._outbox.refuse(alert, asyncio.get_running_loop().time())
        number = self._outbox.refused
        self._refusal = f"{number:,} {'alert is' if number == 1 else 'alerts are'} refused: {reason}"
        self.error = self._refusal

    def _note_failure(self, batch: Sequence[Alert], reason: str, now: float) -> None:
        self._outbox.failed(batch, now)
        self.failures += 1
        if not self._is_failing:  # said once, not at every try
            _log.warning(
                "cannot push alerts to %s: %s; they are pushed when it takes them",
                self.url,
                reason,
                extra=fields(server=self.url, reason=reason),
            )
        self._is_failing = True
        self.error = reason


def to_post(alert: Alert, links: Links, now: int, expires: int, ahead: int = 0) -> dict[str, Any]:
    """An alert as Alertmanager takes it, whose clock is `ahead` of ours by so many milliseconds.

    Its labels name it, and never change while it fires: what changes, such as the cause, is an annotation. One that
    fires ends by itself `expires` milliseconds from now, unless it is pushed again.
    """
    assert alert.firing_since is not None, "what is pending is nobody's business"
    page = link(alert, links)
    return {
        "labels": _labels(alert),
        "annotations": _annotations(alert, page),
        "startsAt": _time(alert.firing_since + ahead),
        "endsAt": _time((now + expires if alert.resolved_at is None else alert.resolved_at) + ahead),
        **({"generatorURL": page} if page else {}),
    }


def _labels(alert: Alert) -> Mapping[str, str]:
    subject = alert.subject
    about = {"app": printable(subject.app)} if subject.app else {"host": printable(subject.host)}
    return {**dict(alert.add_labels), "alertname": alert.rule, "severity": alert.severity, **about}


def _annotations(alert: Alert, page: str) -> Mapping[str, str]:
    found = {"summary": summary(alert), "hosts": hosts(alert), "cause": cause_name(cause(alert)), "link": page}
    return {name: content for name, content in found.items() if content}


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="milliseconds")


def _date(response: httpx.Response) -> int | None:
    """When it answered, by its clock, in milliseconds; None where it does not say."""
    try:
        return round(1_000 * parsedate_to_datetime(response.headers["Date"]).timestamp())
    except (KeyError, ValueError, OverflowError):
        return None


async def _said(response: httpx.Response) -> str:
    """What it says to a push; not more than a line of it."""
    content = b""
    async for part in response.aiter_raw():
        content += part
        if len(content) >= _MAX_SAID_BYTES:
            break
    said = printable(content[:_MAX_SAID_BYTES].decode(errors="replace").strip())[:_MAX_SAID_CHARS]
    return f": {said}" if said else ""
