"""Deliveries of scheduled reports: what is recorded as on its way is sent, each try recorded before it is made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from loiter.durations import format_duration
from loiter.logs import fields
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import Clock
from loiter_aggregator.reports.building import shortened
from loiter_aggregator.reports.delivery.failure import DeliveryError, wait_seconds
from loiter_aggregator.reports.delivery.outgoing import Outgoing, delivery_id
from loiter_aggregator.reports.delivery.targets import deliver, forms_for, targets_of
from loiter_aggregator.reports.file import ReportFile, Schedule
from loiter_aggregator.reports.rendering.worker import RenderError, render_apart
from loiter_aggregator.reports.state import Delivery, ReportState, Run

GONE: Final = "no report of this name is in the file of reports any more"
_NOT_A_TARGET: Final = "the report does not go there any more, by the file of reports"
_RECORD_AGAIN_SECONDS: Final = 10.0
_AT_ONCE: Final = 4
_PATIENCE_SECONDS: Final = 15.0

_log = logging.getLogger(__name__)

Values = ParamSpec("Values")
Result = TypeVar("Result")


class Deliveries:
    """What is on its way."""

    def __init__(self, file: ReportFile, state: ReportState, cache: Path, clock: Clock) -> None:
        """Takes where reports go, where that is recorded, where what draws them may cache, and the clock."""
        self._file, self._state, self._cache, self._clock = file, state, cache, clock
        self._in_hand: dict[int, asyncio.Task[None]] = {}
        self._recording: set[asyncio.Future[Any]] = set()
        self._stopping = False

    async def begin_due(self, wake: Callable[[], None]) -> float:
        """Begins what is to be delivered now; `wake` is called when one has ended. Raises sqlite3.Error.

        Returns:
            In how many seconds the next is to be tried; infinite where there is none.
        """
        now = self._clock()
        seconds = float("inf")
        for delivery, run in await asyncio.to_thread(self._state.open_deliveries):
            if delivery.id in self._in_hand or self._stopping:
                continue
            wait = _wait_ms(delivery, run, now)
            if self._given_up(delivery, run) is None and wait > 0:
                seconds = min(seconds, wait / 1_000)
            elif len(self._in_hand) < _AT_ONCE:
                task = asyncio.create_task(self._deliver(delivery, run))
                self._in_hand[delivery.id] = task
                task.add_done_callback(partial(self._ended, delivery.id, run, wake))
        return max(0.1, seconds)

    async def ended(self) -> None:
        """Waits until nothing is being sent any more."""
        while self._in_hand:
            await asyncio.wait(self._in_hand.values())

    async def stop(self, patience: float = _PATIENCE_SECONDS) -> None:
        """Begins nothing more, and waits for what is being sent, for so many seconds at most, and that it is recorded.

        What takes longer is sent again, as the same message, when the program starts anew.
        """
        self._stopping = True
        sending = list(self._in_hand.values())
        if sending:
            _log.info("waiting for what is being sent, up to %.0f s; deliveries: %d", patience, len(sending))
            await asyncio.wait(sending, timeout=patience)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        await asyncio.gather(*self._recording, return_exceptions=True)

    def _ended(self, delivery: int, run: Run, wake: Callable[[], None], task: asyncio.Task[None]) -> None:
        del self._in_hand[delivery]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("report %s: a delivery ended by a mistake: %s", run.schedule, error, exc_info=error)
        wake()

    async def _deliver(self, delivery: Delivery, run: Run) -> None:
        schedule = self._file.schedule(run.schedule)
        given_up = self._given_up(delivery, run)
        if schedule is None or given_up is not None:
            facts = fields(report=run.schedule, target=delivery.target)
            _log.warning("report %s is not sent any more: %s: %s", run.schedule, delivery.target, given_up, extra=facts)
            await self._record(self._state.not_delivered, delivery.id, given_up or GONE, None)
            return
        began = await self._record(self._state.sending, delivery.id, self._clock())
        try:
            outgoing = await self._outgoing(delivery, run, schedule)
            if self._stopping:
                return  # it is recorded as begun, so it is sent after the next start
            await deliver(outgoing, delivery.target, schedule, self._file)
        except DeliveryError as error:
            await self._not_delivered(delivery, run, began, error)
        except Exception as error:  # a delivery is no reason to end the aggregator
            _log.exception("report %s can not be delivered", run.schedule, extra=fields(report=run.schedule))
            await self._not_delivered(delivery, run, began, DeliveryError(f"{type(error).__name__}: {error}"))
        else:
            await self._record(self._state.delivered, delivery.id, self._clock())
            _log.info(
                "report %s is delivered: %s",
                run.schedule,
                delivery.target,
                extra=fields(report=run.schedule, target=delivery.target),
            )

    def _given_up(self, delivery: Delivery, run: Run) -> str | None:
        """Why a delivery is not made any more, now that the file says otherwise; None where it is made."""
        schedule = self._file.schedule(run.schedule)
        if schedule is None:
            return GONE
        return None if delivery.target in targets_of(schedule) else _NOT_A_TARGET

    async def _outgoing(self, delivery: Delivery, run: Run, schedule: Schedule) -> Outgoing:
        content = await asyncio.to_thread(self._state.report, run.id)
        if content is None:
            raise DeliveryError("what it says is not kept any more", final=True)
        report = await asyncio.to_thread(_read, content)
        forms = forms_for(delivery.target, schedule)
        try:
            files = await render_apart(report, forms, self._cache) if forms else {}
        except RenderError as error:
            raise DeliveryError(str(error)) from None
        identity = delivery_id(self._state.installation, run.schedule, run.due, delivery.target, run.edition)
        return Outgoing(report, files, run.schedule, run.due, identity)

    async def _not_delivered(self, delivery: Delivery, run: Run, began: int, error: DeliveryError) -> None:
        attempts = delivery.attempts + 1
        now = self._clock()
        wait = wait_seconds(attempts, (now - began) / 1_000, error)
        facts = fields(report=run.schedule, target=delivery.target, reason=error)
        what = f"report {run.schedule} is not delivered: {delivery.target}: {error}"
        if wait is None:
            _log.error("%s; given up after %d %s", what, attempts, "try" if attempts == 1 else "tries", extra=facts)
        elif attempts == 1:
            _log.warning("%s; tried again in %s, and for a day", what, format_duration(wait), extra=facts)
        next_try = None if wait is None else now + round(wait * 1_000)
        await self._record(self._state.not_delivered, delivery.id, str(error), next_try)

    async def _record(self, method: Callable[Values, Result], *values: Values.args, **named: Values.kwargs) -> Result:
        """Records, however often that takes: what was sent and is not recorded would be sent again.

        So what has begun is waited for by `stop`, also where nobody else does any more.
        """
        said = False
        while True:
            recording = asyncio.ensure_future(asyncio.to_thread(method, *values, **named))
            self._recording.add(recording)
            recording.add_done_callback(self._recording.discard)
            try:
                return await asyncio.shield(recording)
            except Exception as error:  # of the database, or no thread is to be had
                if not said:
                    _log.error("what became of a report can not be recorded: %s", error, extra=fields(reason=error))
                said = True
                await asyncio.sleep(_RECORD_AGAIN_SECONDS)


def _wait_ms(delivery: Delivery, run: Run, now: int) -> int:
    """For how long a delivery is to wait for its next try; 0 where it is due.

    What a clock that was ahead noted is not waited for; but what it had built before its time waits for that time, when
    another takes its place.
    """
    if run.due > now:
        return run.due - now
    if delivery.tried is not None and delivery.tried > now:
        return 0
    return max(0, delivery.next_try - now)


def _read(content: bytes) -> pb.FleetReport:
    return shortened(pb.FleetReport.FromString(content))
