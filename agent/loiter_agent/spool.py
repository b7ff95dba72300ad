"""Keeps reports from the tick that made them until the aggregator has them.

In memory: what is not acknowledged when the agent ends is lost, and the next agent starts a new epoch.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import Final

from loiter.limits import MAX_MESSAGE_BYTES
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_agent.encode import fit

# What a report adds to its sample, with room to spare.
_ENVELOPE_BYTES: Final = 1_024


class Spool:
    """A bounded queue of reports in the order of their sequence. When it is full, the oldest is dropped and counted."""

    def __init__(self, host_id: str, boot_id: str, limit: int) -> None:
        """Starts an epoch."""
        self.host_id = host_id
        self.limit = limit
        self.dropped = 0
        self.epoch = int.from_bytes(os.urandom(8), "big") >> 1 or 1
        self._boot_id = boot_id
        self._sequence = 0
        # Serialized: a tenth of the memory that the messages take.
        self._reports: OrderedDict[int, bytes] = OrderedDict()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many reports are waiting for their acknowledgement."""
        return len(self._reports)

    def append(self, sample: sample_pb2.Sample) -> None:
        """Adds a sample as the next report."""
        self._sequence += 1
        report = pb.Report(
            host_id=self.host_id,
            boot_id=self._boot_id,
            spool_epoch=self.epoch,
            sequence=self._sequence,
            sample=fit(sample, MAX_MESSAGE_BYTES - _ENVELOPE_BYTES),
        )
        self._reports[self._sequence] = report.SerializeToString()
        while len(self._reports) > self.limit:
            self._reports.popitem(last=False)
            self.dropped += 1
        self._changed.set()

    async def after(self, sequence: int) -> pb.Report:
        """Returns the oldest report behind a sequence, once there is one."""
        while True:
            if self._sequence > sequence:
                for number, report in self._reports.items():
                    if number > sequence:
                        return pb.Report.FromString(report)
            self._changed.clear()
            await self._changed.wait()

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Lets go of every report up to a sequence."""
        if epoch != self.epoch:
            return
        while self._reports and next(iter(self._reports)) <= sequence:
            self._reports.popitem(last=False)
        self._changed.set()

    def reject(self, epoch: int, sequence: int) -> None:
        """Drops one report that the aggregator will never take."""
        if epoch == self.epoch and self._reports.pop(sequence, None) is not None:
            self.dropped += 1
            self._changed.set()

    async def drained(self) -> None:
        """Returns once no report is waiting."""
        while self._reports:
            self._changed.clear()
            await self._changed.wait()
