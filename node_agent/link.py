"""The two ends of a link: the sender, which imposes the model without privileges, and the receiver, which measures.

The sender alone imposes the link: it holds each message back until the moment at which it would arrive, so that no two
nodes need agree on a clock. Under the virtual clock nobody waits and the message carries its arrival time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from node_agent.clock import Clock, WallClock, sleep_until
from node_agent.events import Received, Sent
from node_agent.link_model import LinkError, LinkModel
from node_agent.transport import HEADER_BYTES, Channel, Frame, FramePool, Header

if TYPE_CHECKING:
    import torch.distributed as dist

POSTED = 8
"""receives kept ready on every incoming link, so that a message never waits for its receiver to ask for it"""


BURST = 0.005
"""s; messages that arrive back to back for less than this are too few to tell the rate from the host's own jitter"""


class OutgoingLink:
    """Sends messages to one neighbour through a `LinkModel`. `send` never blocks on the link; `flush` does not
    return before the transport has taken everything that needs no holding back."""

    def __init__(self, model: LinkModel, channel: Channel, pool: FramePool, clock: Clock, latency: float = 0.0) -> None:
        self.model = model
        self.sent = Sent()
        self._channel = channel
        self._pool = pool
        self._in_flight: deque[tuple[dist.Work, Frame]] = deque()
        self._line: DelayLine | None = None
        if isinstance(clock, WallClock) and not model.settings.bare:
            self._line = DelayLine(channel, pool, latency)

    def frame_bytes(self) -> int:
        return self.model.frame_bytes()

    def send(self, frame: Frame, clock: Clock) -> None:
        """Send a filled frame; it belongs to the link from now on."""
        nbytes = HEADER_BYTES + frame.length
        t = self.model.transmit(nbytes, clock.now())
        self.sent += Sent(1, frame.length, HEADER_BYTES, t.retransmitted, t.busy, t.queued, t.closed)
        ended, arrival = t.ended, t.arrival
        if isinstance(clock, WallClock):
            ended, arrival = clock.host(ended), clock.host(arrival)
        frame.write_header(ended, arrival, t.back_to_back)
        if self._line is not None:
            self._line.hold(frame, arrival)
        else:
            self._in_flight.append((self._channel.send(frame.on_the_wire), frame))

    def flush(self) -> None:
        while self._in_flight:
            work, frame = self._in_flight.popleft()
            self._channel.finish(work)
            self._pool.give(frame)

    def close(self) -> None:
        """Send what is still held back, then end the delay line's thread."""
        self.flush()
        if self._line is not None:
            self._line.close()


class DelayLine:
    """Holds each message back, then hands it to the transport so that it arrives in time: a thread of its own, so that
    both directions of a ring and the training go on meanwhile.

    What the transport itself takes (`latency`, s) counts towards the link's delay, and so does the median time by which
    the host is late in waking this thread.
    """

    LEARNING = 5e-6
    """s by which the estimate of the median lateness follows each sleep"""

    def __init__(self, channel: Channel, pool: FramePool, latency: float = 0.0) -> None:
        self._channel = channel
        self._pool = pool
        self._latency = latency
        self._lateness = 0.0
        self._held: queue.SimpleQueue[tuple[Frame, float] | None] = queue.SimpleQueue()
        self._error: LinkError | None = None
        self._thread = threading.Thread(target=self._release, name=f"delay {channel.name}", daemon=True)
        self._thread.start()

    def hold(self, frame: Frame, host_moment: float) -> None:
        """Raises LinkError if an earlier message could not be delivered."""
        if self._error is not None:
            raise self._error
        self._held.put((frame, host_moment))

    def close(self) -> None:
        self._held.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _release(self) -> None:
        while (item := self._held.get()) is not None:
            frame, moment = item
            self._sleep_until(moment - self._latency)
            try:
                self._channel.finish(self._channel.send(frame.on_the_wire))
            except LinkError as error:
                self._error = error
                return
            self._pool.give(frame)

    def _sleep_until(self, moment: float) -> None:
        woken_for = moment - self._lateness
        if woken_for > time.monotonic():
            sleep_until(woken_for)
            late = time.monotonic() - woken_for
            self._lateness += self.LEARNING if late > self._lateness else -self.LEARNING


class Burst:
    """Messages that follow one another without a gap: what arrived after the first, and in what time.

    The arrival of a message that nobody was waiting for was not seen; its bits count once a later one's was.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._unseen = 0
        self.bits = 0
        self.seconds = 0.0

    def take(self, bits: int, arrived: float | None) -> None:
        self._unseen += bits
        if arrived is not None:
            self.bits += self._unseen
            self.seconds = arrived - self._began
            self._unseen = 0


class IncomingLink:
    """Receives messages from one neighbour, and measures what their link gave them.

    A message counts for the measurement only if this node was already waiting for it: otherwise its arrival was not
    seen. Under the wall clock the sender's times are of the same host's monotonic clock; where the two nodes are
    different hosts, `shared_host` is False and only the rate is measured.
    """

    WAITED = 1e-4
    """s; a receive that took longer than this had to wait for its message"""

    def __init__(self, channel: Channel, pool: FramePool, shared_host: bool = True) -> None:
        self._channel = channel
        self._pool = pool
        self._shared_host = shared_host
        self._posted: deque[tuple[dist.Work, Frame]] = deque()
        self._burst: Burst | None = None
        self._delays: list[float] = []
        self._rate_bits = 0.0
        self._rate_s = 0.0
        for _ in range(POSTED):
            self._post()

    def _post(self) -> None:
        frame = self._pool.take()
        self._posted.append((self._channel.receive(frame.octets), frame))

    def receive(self, clock: Clock) -> Frame:
        """The next message; the frame is the caller's, who returns it to the pool or sends it on.

        Raises LinkError if the neighbour is gone or silent for too long.
        """
        work, frame = self._posted.popleft()
        asked = clock.now() if clock.virtual else time.monotonic()
        self._channel.finish(work)
        self._post()
        header = frame.read_header()
        if clock.virtual:
            clock.wait_until(header.arrival)
            arrived, waited = header.arrival, header.arrival > asked
        else:
            arrived = time.monotonic()
            waited = arrived - asked > self.WAITED
        self._measure(header, arrived, waited, known=clock.virtual or self._shared_host)
        return frame

    def _measure(self, header: Header, arrived: float, waited: bool, known: bool) -> None:
        if known and waited:
            self._delays.append(arrived - header.ended)
        if not header.back_to_back:
            self._end_burst()
        elif self._burst is not None:
            self._burst.take(8 * (HEADER_BYTES + header.length), arrived if waited else None)
        if self._burst is None and (waited or known):
            # Counted from when it was due, a message that was handed over late cannot make the rest look fast.
            self._burst = Burst(min(arrived, header.arrival) if known else arrived)

    def _end_burst(self) -> None:
        burst, self._burst = self._burst, None
        if burst is not None and burst.seconds >= BURST:
            self._rate_bits += burst.bits
            self._rate_s += burst.seconds

    def measured(self) -> Received:
        """What was measured since the last call."""
        self._end_burst()
        delays, bits, seconds = self._delays, self._rate_bits, self._rate_s
        self._delays, self._rate_bits, self._rate_s = [], 0.0, 0.0
        if not delays:
            return Received(rate_bits=bits, rate_s=seconds)
        return Received(sum(delays) / len(delays), max(delays), len(delays), bits, seconds)
