"""The link model: what a link does to a message. Pure: it computes times and never waits; free of torch.

A message of n bytes leaves when the link is free, occupies it for 8 n / rate (framing apart), arrives delay + jitter
later, is retransmitted where packets of it are lost, and waits while no contact is scheduled.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node_agent.impairments import Jitter, Losses
from node_agent.job import FRAME, LinkSettings, LinkState
from node_agent.timeline import Passage, Timeline

PACKET = 1500
"""bytes; what is lost and sent again as a unit"""

FRAME_TIME = 0.004
"""s; a message occupies the slowest link of its ring for about this long at most, where the rate allows it"""

SMALLEST_FRAME = 16 * 1024
"""bytes; below this the header and the handling of a message would weigh more than what a shorter one gains"""


WORTH = 10
"""times the latency of a round of the ring that what is exchanged at once takes to travel"""

HANDLING = 0.5e-3
"""s; about what a node takes for a message beside copying it"""

MOST_AT_ONCE = 25 * 2**20
"""bytes that are exchanged at once whatever the links"""

TCP_HEADERS = 52
"""bytes of each packet that IP and TCP with timestamps take"""

TRANSPORT_HEADER = 48
"""bytes that Gloo puts before each message (gloo/transport/tcp/pair.h, Op::preamble)"""

TRANSPORT_NOTICE = 48
"""bytes of the same, alone: Gloo announces every message to its receiver, and every receive to its sender. Measured by
the counters of network devices: n messages take 96 n bytes besides their own one way and 48 n the other, of whatever
length they are and whichever end is ready first."""

LEAST_TIMEOUT, LONGEST_TIMEOUT, LONGEST_RETRY = 0.2, 120.0, 924.6
"""s; of TCP's retransmissions in Linux, and after how long it gives a connection up (tcp(7), tcp_retries2)"""


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
    accepted: float
    """when the link's queue had room for all of it: its sender waits until then"""
    busy: float
    queued: float
    closed: float
    retransmitted: int
    """bytes"""
    framing: int
    """bytes of overhead"""
    back_to_back: bool
    """whether it followed the message before it without a gap"""
    opened: float | None = None
    """when the contact began for which it had to wait; None: it met no closed link"""


class LinkModel:
    """One direction of a link, message after message. Pure: it computes times and never waits.

    Losses are of packets of 1,500 bytes; the receiver asks again for what is missing, so that each round of
    retransmission costs a round trip, and later messages queue behind it. Arrivals keep their order, also under jitter:
    what the messages carry is a stream. What a message loses is decided when it is ready, its delay when its last bit
    leaves.
    """

    def __init__(self, settings: LinkSettings, generator: np.random.Generator) -> None:
        self.settings = settings
        self.last_arrival = 0.0
        """when everything sent so far will have arrived, s"""
        self._generator = generator
        self._timeline = Timeline(settings)
        self._losses = Losses(settings)
        self._jitter = Jitter(settings.jitter_kind)
        self._free = 0.0
        self._waiting: deque[tuple[float, int]] = deque()
        self._backlog = 0

    def transmit(self, nbytes: int, now: float) -> Transmission:
        """Send `nbytes` at time `now`.

        Raises LinkError if the contact windows end before the message is through, or keep it waiting for longer than
        the link's deadline.
        """
        s = self.settings
        ready = max(now, self._free)
        state = s.state_at(ready)
        retransmitted, rounds = self._lose(nbytes, state)
        framing = s.overhead * (packets(nbytes) + -(-retransmitted // PACKET))
        passage = self._timeline.through(8 * (nbytes + retransmitted + framing), ready)
        self._keep_to_windows(nbytes, ready, passage)
        assert passage is not None
        state = s.state_at(passage.ended)
        delay = state.delay * (1 + 2 * rounds)
        if state.jitter:
            delay = max(0.0, delay + state.jitter * self._jitter.sample(self._generator))
        arrival = max(passage.ended + delay, self.last_arrival)
        following = self._free >= now and not passage.paused
        self._free, self.last_arrival = passage.ended, arrival
        return Transmission(
            ended=passage.ended,
            arrival=arrival,
            accepted=self._queue(nbytes, now, passage.ended),
            busy=passage.busy,
            queued=ready - now,
            closed=max(0.0, passage.ended - ready - passage.busy) if passage.paused else 0.0,
            retransmitted=retransmitted,
            framing=framing,
            back_to_back=following,
            opened=passage.opened if passage.paused else None,
        )

    def _keep_to_windows(self, nbytes: int, ready: float, passage: Passage | None) -> None:
        s = self.settings
        message = f"link {s.name}: a message of {nbytes} bytes, ready at {ready:.3f} s,"
        if passage is None:
            last = s.schedule[-1].end if s.schedule else 0.0
            raise LinkError(f"{message} finds too little contact left: the last contact window ends at {last:.3f} s")
        waits = passage.ended - ready - passage.busy
        if s.deadline is not None and passage.paused and waits > s.deadline:
            raise LinkError(
                f"{message} would wait {waits:.3f} s for contact, until {passage.opened:.3f} s, longer than the "
                f"link's deadline of {s.deadline:g} s"
            )

    def _queue(self, nbytes: int, now: float, ended: float) -> float:
        """Take the message into the queue; when its last byte finds room there."""
        if self.settings.queue is None:
            return now
        while self._waiting and self._waiting[0][0] <= now:
            self._backlog -= self._waiting.popleft()[1]
        accepted = now
        while self._waiting and self._backlog + nbytes > self.settings.queue:
            accepted, length = self._waiting.popleft()
            self._backlog -= length
        self._waiting.append((ended, nbytes))
        self._backlog += nbytes
        return accepted

    def _lose(self, nbytes: int, state: LinkState) -> tuple[int, int]:
        """Bytes sent again, and in how many rounds."""
        self._losses.change(state)
        if not state.loss:
            return 0, 0
        pending: NDArray[np.int64] = np.full(packets(nbytes), PACKET)
        pending[-1:] = nbytes - PACKET * (len(pending) - 1)
        sent_again, rounds = 0, 0
        while len(pending := pending[self._losses.lost(len(pending), self._generator)]):
            sent_again += int(pending.sum())
            rounds += 1
        return sent_again, rounds


def framed(link: LinkSettings) -> LinkSettings:
    """The link as the messages of a TCP connection find it where something beneath TCP imposes it."""
    return link.model_copy(update={"overhead": link.overhead + TCP_HEADERS})


def expected(link: LinkSettings) -> LinkSettings:
    """What a sender can say of its messages beforehand where something beneath TCP imposes the link."""
    drawn = {"jitter": 0.0, "loss": 0.0, "bursts": None}
    changes = tuple(change.model_copy(update=drawn) for change in link.changes)
    return framed(link).model_copy(update={**drawn, "changes": changes, "queue": None})


def packets(nbytes: int) -> int:
    """How many packets carry so many bytes."""
    return -(-nbytes // PACKET)


def frame_bytes(links: Iterable[LinkSettings]) -> int:
    """Payload of the largest message on a ring of these links; a multiple of 16 KiB.

    Its slowest link decides: what a fast link brings in large pieces would occupy the next one for long.
    """
    rates = [state.rate for link in links for state in (link, *link.changes) if state.rate is not None]
    if not rates:
        return FRAME
    affordable = int(min(rates) / 8 * FRAME_TIME) // SMALLEST_FRAME * SMALLEST_FRAME
    return min(max(affordable, SMALLEST_FRAME), FRAME)


def payload_bytes(links: Iterable[LinkSettings]) -> int:
    """How much a ring of these links exchanges at once: enough to travel for long beside the latency of a round, and
    little enough for the rest to be computed meanwhile.

    An all-reduce of S bytes goes twice round the ring but for two hops, 2 (N-1)/N S bytes a link and 2 (N-1)/N times
    the sum of the delays: the share of its latency does not depend on N.
    """
    links = list(links)
    rates = [state.rate for link in links for state in (link, *link.changes) if state.rate is not None]
    if not rates:
        return MOST_AT_ONCE
    latency = sum(HANDLING + max(state.delay for state in (link, *link.changes)) for link in links)
    return min(MOST_AT_ONCE, max(1, round(WORTH * latency * min(rates) / 8)))


def patience(link: LinkSettings, frame: int, over_tcp: bool = False) -> float:
    """How long a healthy sender may be silent because of the link itself, s: one message of `frame` bytes with every
    retransmission that happens more often than once in a billion, ready at the worst moment of the schedule.

    `over_tcp`: packets are lost beneath TCP, which waits twice as long before each further retransmission (RFC 6298).
    """
    states = (link, *link.changes)
    lost_again = max(_most_often_lost_again(state) for state in states)
    rounds = math.ceil(math.log(1e-9 / packets(frame)) / math.log(lost_again)) if lost_again else 0
    bits = 8 * (frame + link.overhead * packets(frame)) * (1 + rounds * lost_again)
    timeline = Timeline(link)
    # The less is left of its window, the more closures a message has to wait for: none is left at a window's end, and
    # the least with which it still gets through is left at the last moment for it.
    last = timeline.last_moment(bits)
    passages = {ready: timeline.through(bits, ready) for ready in (0.0, *timeline.edges(), last) if ready is not None}
    longest = max((passage.ended - ready for ready, passage in passages.items() if passage is not None), default=0.0)
    delay, jitter = max(s.delay for s in states), max(s.jitter for s in states)
    again = 2 * rounds * delay
    if over_tcp:
        timeout = LEAST_TIMEOUT + 2 * delay + 4 * jitter
        again = min(LONGEST_RETRY, sum(min(LONGEST_TIMEOUT, timeout * 2**k) for k in range(rounds)))
    return longest + delay + again + 13 * jitter


def _most_often_lost_again(state: LinkState) -> float:
    """The probability that a packet which was lost is lost again."""
    if state.bursts is None or not state.loss:
        return state.loss
    return max(state.loss, min(1 - 1e-3, (1 - state.bursts.leave) * state.bursts.lost_inside))
