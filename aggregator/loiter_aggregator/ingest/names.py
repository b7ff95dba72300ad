"""How many names of processes a host may add: each is kept for as long as samples that have it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from loiter.logs import fields
from loiter_aggregator.clock import Clock
from loiter_aggregator.ingest.rates import HourlyBudget
from loiter_aggregator.store.batch import Identity, identity_key

_log = logging.getLogger(__name__)

TOO_MANY: Final = Identity("(too many names)", "(too many names)", "")


class NameBudget:
    """Gives processes of a host that has added too many names in the hour one name together."""

    def __init__(self, per_hour: int, clock: Clock, is_known: Callable[[int], bool]) -> None:
        """Takes how many, and how to ask whether the identity of a key is there already."""
        self._budget = HourlyBudget(per_hour)
        self._clock = clock
        self._is_known = is_known

    def renamer(self, host_key: int, host_id: str) -> Callable[[Identity], Identity]:
        """Makes what tells how a process of a host is to be called."""

        def rename(identity: Identity) -> Identity:
            if self._is_known(identity_key(identity)) or self._budget.take(host_key, self._clock()):
                return identity
            if self._budget.is_first_refusal(host_key):
                _log.warning(
                    "host %s has added more than %s names of processes in this hour: further ones are stored as %s",
                    host_id,
                    f"{self._budget.limit:,}",
                    TOO_MANY.name,
                    extra=fields(host_id=host_id, limit=self._budget.limit),
                )
            return TOO_MANY

        return rename
