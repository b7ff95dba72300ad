"""What the clocks of hosts are off. Pure: times are passed in, all of them in milliseconds.

An agent says with each message what CLOCK_BOOTTIME shows on its host, which never steps and goes on while the host is
suspended. Set beside the same clock of the aggregator, it tells when anything was done since the host's boot, whatever
the host's own clock said. A message may take long, since a network, a queue or a busy aggregator held it up, but none
comes before it was sent: so the least difference of the two clocks is the best known. It may grow by what crystals and
NTP let two clocks drift apart (500 ppm, the most that adjtimex(2) slews) and no faster, so that an hour's worth of
messages that were held up for an hour pass for nothing else. One thing makes it grow at once: a virtual machine that
was stopped with its clocks. Then the difference stays what it is, where that of a queue does not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from loiter.limits import TOLERATED_SKEW_SECONDS

_TOLERATED_MS: Final = round(TOLERATED_SKEW_SECONDS * 1_000)
# A clock that was off is right again a little earlier than one that was right is off: at the border, it does not flap.
_RIGHT_AGAIN_MS: Final = _TOLERATED_MS * 4 // 5
_DRIFT: Final = 500e-6

# A stopped machine: so many messages, sent at least so far apart, that all took about as long as each other.
_STEADY_MESSAGES: Final = 16
_STEADY_APART_MS: Final = 4_000
_STEADY_SPREAD_MS: Final = 1_000


@dataclass(slots=True)
class BootClocks:
    """How far the host's clock since boot is behind that of the aggregator."""

    _least: float | None = None
    _heard: int = 0
    _recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_STEADY_MESSAGES))

    def hear(self, sent: int, received: int) -> None:
        """Takes in when a message was sent, by the host's clock since boot, and received, by ours."""
        behind = received - sent
        if self._least is None:
            self._least = behind
        else:
            self._least = min(behind, self._least + _DRIFT * max(0, received - self._heard))
        self._heard = received
        if not self._recent or sent >= self._recent[-1][0] + _STEADY_APART_MS:
            self._recent.append((sent, behind))
            self._follow_a_stopped_machine()

    def _follow_a_stopped_machine(self) -> None:
        if len(self._recent) < _STEADY_MESSAGES:
            return
        differences = [behind for _, behind in self._recent]
        if max(differences) - min(differences) < _STEADY_SPREAD_MS:
            self._least = min(differences)

    def ours(self, theirs: int) -> int | None:
        """What our clock since boot showed when theirs did that; None while nothing was heard."""
        return None if self._least is None else theirs + round(self._least)


class HostClock:
    """What the clock of one host is off, as one stream tells."""

    def __init__(self, boot_id: str, agent_time: int | None, sent: int | None, now: int, since_boot: int) -> None:
        """Takes what the hello says, and our clocks as it came: the time of day, and since boot."""
        # How far the host's clock is behind ours, of the newest sample; None while that is not known.
        self.current: int | None = None
        self._boot_id = boot_id
        self._agent_time = agent_time
        self._sent = sent
        self._hello_skew = 0 if agent_time is None else now - agent_time
        self._boot_clocks = BootClocks()
        self._newest = -1
        self._off = False
        self.hear(sent, now, since_boot)
        if sent is None:
            self.current = self._tolerated(self._hello_skew)

    def hear(self, sent: int | None, now: int, since_boot: int) -> None:
        """Takes in when a message was sent, and our clocks as it came."""
        # What to add to our clock since boot to have the time of day: ours may be stepped too.
        self._day = now - since_boot
        if sent is not None:
            self._boot_clocks.hear(sent, since_boot)

    def time_of(self, since_boot: int) -> int | None:
        """Our time of day when the host's clock since boot showed that; None with an agent that does not tell."""
        ours = self._boot_clocks.ours(since_boot)
        return None if ours is None else ours + self._day

    def skew(self, boot_id: str, taken: int | None, agent_time: int) -> int:
        """How far the host's clock was behind ours as it showed `agent_time`: 0 where that may be the network's doing.

        `taken` is its clock since boot at that moment, which tells nothing of a boot other than that of the stream.
        Then, and with an agent that does not say, the host's clock is taken to be off by what it is now.
        """
        corrected = None if taken is None or boot_id != self._boot_id else self.time_of(taken)
        if corrected is None or taken is None:
            return self._tolerated(self._skew_now())
        skew = self._tolerated(corrected - agent_time)
        if taken >= self._newest:
            self._newest, self.current = taken, skew
        return skew

    def _skew_now(self) -> int:
        if self._sent is not None and self._agent_time is not None:
            # The hello may have been on its way for long; what came after it tells for how long.
            corrected = self.time_of(self._sent)
            if corrected is not None:
                return corrected - self._agent_time
        return self._hello_skew

    def _tolerated(self, skew: int) -> int:
        self._off = abs(skew) >= (_RIGHT_AGAIN_MS if self._off else _TOLERATED_MS)
        return skew if self._off else 0
