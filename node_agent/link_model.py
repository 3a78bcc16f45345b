"""The link model: what a link does to a message. Pure: it computes times and never waits; free of torch.

A message of n bytes leaves when the link is free, occupies it for 8 n / rate, arrives delay + jitter later, is
retransmitted where packets of it are lost, and waits while no contact is scheduled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from node_agent.job import FRAME, LinkSettings, Window

PACKET = 1500
"""bytes; what is lost and sent again as a unit"""

FRAME_TIME = 0.004
"""s; a message occupies the slowest link of its ring for about this long at most, where the rate allows it"""

SMALLEST_FRAME = 16 * 1024
"""bytes; below this the header and the handling of a message would weigh more than what a shorter one gains"""


class LinkError(RuntimeError):
    """A link that failed: the neighbour is gone, silent for too long, or will never be in contact again."""


class ConnectionLost(LinkError):
    """The neighbour is gone or silent: the consequence of something that happened elsewhere."""


@dataclass(frozen=True)
class Transmission:
    """What the link did to one message; times by the run's clock, s."""

    ended: float
    """when the last bit had left"""
    arrival: float
    busy: float
    queued: float
    closed: float
    retransmitted: int
    """bytes"""
    back_to_back: bool
    """whether it followed the message before it without a gap"""


class LinkModel:
    """One direction of a link, message after message. Pure: it computes times and never waits.

    `settings.loss` is the probability that a packet of 1,500 bytes is lost; the receiver asks again for what is
    missing, so that each round of retransmission costs a round trip, and later messages queue behind it (no
    reordering). Jitter is normal, its standard deviation `settings.jitter`; arrivals keep their order.
    """

    def __init__(self, settings: LinkSettings, generator: np.random.Generator) -> None:
        self.settings = settings
        self._generator = generator
        self._free = 0.0
        self.last_arrival = 0.0
        """when everything sent so far will have arrived, s"""

    def transmit(self, nbytes: int, now: float) -> Transmission:
        """Send `nbytes` at time `now`.

        Raises LinkError if the contact windows end before the message is through.
        """
        s = self.settings
        ready = max(now, self._free)
        retransmitted, rounds = self._lose(nbytes)
        busy = 0.0 if s.rate is None else 8 * (nbytes + retransmitted) / s.rate
        ended = through_windows(s.schedule, ready, busy)
        if ended is None:
            raise LinkError(
                f"link {s.name}: a message of {nbytes} bytes, ready at {ready:.3f} s, needs {busy:.3f} s of contact, "
                f"more than is left: the last contact window ends at {s.schedule[-1].end if s.schedule else 0.0:.3f} s"
            )
        delay = s.delay + rounds * 2 * s.delay
        if s.jitter:
            delay = max(0.0, delay + s.jitter * float(self._generator.standard_normal()))
        arrival = max(ended + delay, self.last_arrival)
        following = self._free >= now and ended == ready + busy
        self._free, self.last_arrival = ended, arrival
        closed = 0.0 if s.schedule is None else max(0.0, ended - ready - busy)
        return Transmission(ended, arrival, busy, ready - now, closed, retransmitted, following)

    def _lose(self, nbytes: int) -> tuple[int, int]:
        """Bytes sent again, and in how many rounds."""
        if not self.settings.loss:
            return 0, 0
        whole, tail = divmod(nbytes, PACKET)
        sent_again, rounds = 0, 0
        while whole or tail:
            whole = int(self._generator.binomial(whole, self.settings.loss))
            tail = tail if tail and self._generator.random() < self.settings.loss else 0
            sent_again += whole * PACKET + tail
            rounds += bool(whole or tail)
        return sent_again, rounds


def through_windows(schedule: tuple[Window, ...] | None, ready: float, busy: float) -> float | None:
    """When a transmission of `busy` seconds that is ready at `ready` ends, pausing outside the windows; None: never."""
    if schedule is None:
        return ready + busy
    remaining = busy
    for window in schedule:
        start = max(ready, window.start)
        if start >= window.end:
            continue
        if start + remaining <= window.end:
            return start + remaining
        remaining -= window.end - start
    return None


def frame_bytes(links: Iterable[LinkSettings]) -> int:
    """Payload of the largest message on a ring of these links; a multiple of 16 KiB.

    Its slowest link decides: what a fast link brings in large pieces would occupy the next one for long.
    """
    rates = [link.rate for link in links if link.rate is not None]
    if not rates:
        return FRAME
    affordable = int(min(rates) / 8 * FRAME_TIME) // SMALLEST_FRAME * SMALLEST_FRAME
    return min(max(affordable, SMALLEST_FRAME), FRAME)


def patience(link: LinkSettings, frame: int) -> float:
    """How long a healthy sender may be silent because of the link itself, s: one message of `frame` bytes with every
    retransmission that happens more often than once in a billion, ready at the worst moment of the schedule."""
    packets = math.ceil(frame / PACKET)
    rounds = math.ceil(math.log(1e-9 / packets) / math.log(link.loss)) if link.loss else 0
    message = 0.0 if link.rate is None else 8 * frame / link.rate * (1 + rounds * link.loss)
    # The less is left of its window, the more closures a message has to wait for: none is left at a window's end, and
    # the least with which it still gets through is left at the last moment for it.
    worst = [0.0, *(window.end for window in link.schedule or ()), _last_moment(link.schedule, message)]
    ends = [(ready, through_windows(link.schedule, ready, message)) for ready in worst]
    longest = max((ended - ready for ready, ended in ends if ended is not None), default=message)
    return longest + (1 + 2 * rounds) * link.delay + 10 * link.jitter


def _last_moment(schedule: tuple[Window, ...] | None, busy: float) -> float:
    """The latest at which a transmission of `busy` seconds may be ready to end before the schedule does."""
    for window in reversed(schedule or ()):
        if busy <= window.end - window.start:
            return window.end - busy
        busy -= window.end - window.start
    return 0.0
