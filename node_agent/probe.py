"""What a link really gives, measured before anything depends on it: single messages for delay and jitter, then a burst
for the rate, on all links of the ring at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from node_agent.clock import WallClock
from node_agent.events import Measured, Sent
from node_agent.job import LinkSettings, ProbeSettings
from node_agent.judgement import DELAY_FLOOR
from node_agent.link import IncomingLink, OutgoingLink
from node_agent.link_model import TRANSPORT_HEADER, LinkError
from node_agent.transport import HEADER_BYTES, FramePool

PAUSE = 0.01
"""s at least between two single messages"""

SINGLE_BYTES = 64
MESSAGE_TIME = 0.02
"""s for which a message of the burst occupies the link, where that makes it long enough to be worth its header"""

FEWEST = 8
"""messages in a burst, and single messages, however slow the link"""

FEWEST_LONG = 4
"""messages in a burst of long ones"""

LONGEST_BURST = 128 * 2**20
"""bytes; a link that is faster than the host can carry would only fill its memory"""

ATTEMPTS = 3
"""probes; what a busy host does to one of them is no property of the links"""


class LinkDeviation(LinkError):
    """A link that does not give what was asked of it."""


def singles(link: LinkSettings, probe: ProbeSettings) -> tuple[int, float]:
    """How many single messages, and the pause (s) between them: so long that none waits for the one before it, and that
    all come within the time that a probe may take."""
    occupied = 0.0 if link.rate is None else 8 * single_bytes(link) / link.rate
    # Nor may they be more than TCP's first window, ten packets, in a round trip.
    pause = max(PAUSE, 2 * occupied, 6 * link.jitter, link.delay / 4)
    return max(FEWEST, min(probe.samples, int(probe.budget / pause))), pause


def single_bytes(link: LinkSettings) -> int:
    """What a single message takes on the link at most."""
    return SINGLE_BYTES + HEADER_BYTES + TRANSPORT_HEADER + link.overhead


def burst(link: LinkSettings, seconds: float, room: int, over_tcp: bool = False) -> tuple[int, int]:
    """How many messages back to back at least, and their length in bytes: beneath TCP that of the ring's own, as the
    receives that are kept posted are for so many of those."""
    rate = link.rate if link.rate is not None else 8 * room / MESSAGE_TIME
    length = room if over_tcp else max(SINGLE_BYTES, min(room, int(rate * MESSAGE_TIME / 8)))
    return max(FEWEST_LONG if over_tcp else FEWEST, int(min(rate * seconds / 8, LONGEST_BURST) / length)), length


def measure(
    outgoing: OutgoingLink,
    incoming: IncomingLink,
    following: LinkSettings,
    previous: LinkSettings,
    pool: FramePool,
    probe: ProbeSettings,
    meet: Callable[[], object],
    clock: WallClock,
    turn: int | None = None,
) -> tuple[Measured, Sent]:
    """What the incoming link gave, and what went out on the other one. `following` and `previous` are what was asked of
    the outgoing and of the incoming link: both ends of a link take number and length of its messages from that.

    All nodes send at once, or where this node of two has a `turn`, 0 or 1, one after the other: beneath TCP the
    acknowledgements of one direction are packets of the other, which its messages queue and keep their order behind.

    `meet` returns when all nodes have called it; `clock` is the one of all that `outgoing` has sent. Raises LinkError
    if a neighbour fails.
    """
    meet()
    expecting, _ = singles(previous, probe)

    def send_singles() -> None:
        _send(outgoing, pool, clock, SINGLE_BYTES, *singles(following, probe))

    def receive_singles() -> None:
        for _ in range(expecting):
            pool.give(incoming.receive(clock))

    _both(send_singles, receive_singles, meet, turn)
    delays = _first_time(incoming.meter.delays, previous)
    incoming.meter.measured()
    meet()
    whole = probe.warm_up + probe.burst_time
    over_tcp = not outgoing.imposed
    count, expected = burst(previous, whole, pool.room, over_tcp)
    measured_from = int(count * probe.warm_up / whole)
    messages, length = burst(following, whole, pool.room, over_tcp)

    def send_burst() -> None:
        _send(outgoing, pool, clock, length, messages, 0.0)

    def receive_burst() -> None:
        for number in range(count):
            if number == measured_from:
                incoming.meter.measured()
            pool.give(incoming.receive(clock))

    _both(send_burst, receive_burst, meet, turn)
    received = incoming.meter.measured()
    return Measured(
        rate_bit_s=received.rate_bits / received.rate_s if received.rate_s else None,
        burst_s=received.rate_s,
        message_bytes=HEADER_BYTES + expected,
        delay_s=float(np.median(delays)) if len(delays) else None,
        jitter_s=float(delays.std()) if len(delays) else None,
        samples=len(delays),
    ), outgoing.sent


def _both(send: Callable[[], None], receive: Callable[[], None], meet: Callable[[], object], turn: int | None) -> None:
    """Send and receive, at once or one after the other."""
    if turn is None:
        with _Sending(send):
            receive()
        return
    for whose in (0, 1):
        send() if whose == turn else receive()
        meet()


def _first_time(delays: NDArray[np.float64], link: LinkSettings) -> NDArray[np.float64]:
    """Without those of messages that had to be sent again, a round trip later or more."""
    again = link.loss and link.delay > DELAY_FLOOR
    return delays[delays < 2 * link.delay + 5 * link.jitter] if again else delays


def _send(outgoing: OutgoingLink, pool: FramePool, clock: WallClock, length: int, count: int, pause: float) -> None:
    payload = torch.zeros(length, dtype=torch.uint8)
    for _ in range(count):
        outgoing.send(pool.take().fill(payload, length), clock)
        if pause:
            outgoing.flush()
            time.sleep(pause)
    outgoing.flush()


class _Sending:
    """A thread that sends while this one receives; what goes wrong in it is raised here."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def _run(self) -> None:
        try:
            self._send()
        except Exception as error:  # raised by __exit__
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error
