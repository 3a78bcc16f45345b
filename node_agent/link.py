"""The two ends of a link: the sender, which imposes the model without privileges, and the receiver, which measures.

The sender alone imposes the link: it holds each message back until the moment at which it would arrive, so that no two
nodes need agree on a clock. Under the virtual clock nobody waits and the message carries its arrival time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from node_agent.clock import Clock, WallClock, sleep_until
from node_agent.events import Sent
from node_agent.link_model import TRANSPORT_HEADER, LinkModel
from node_agent.meter import Meter
from node_agent.transport import HEADER_BYTES, Channel, Frame, FramePool

if TYPE_CHECKING:
    import torch.distributed as dist

POSTED = 8
"""receives kept ready on every incoming link, so that a message never waits for its receiver to ask for it"""


class OutgoingLink:
    """Sends messages to one neighbour through a `LinkModel`. `send` waits only for room in the link's queue; `flush`
    does not return before the transport has taken everything that needs no holding back. `closed` is told, once a
    closure, that a message met a closed link: when it was ready and when the contact begins, s by the run's clock."""

    def __init__(
        self,
        model: LinkModel,
        channel: Channel,
        pool: FramePool,
        clock: Clock,
        latency: float = 0.0,
        closed: Callable[[float, float], None] | None = None,
        imposed: bool = True,
    ) -> None:
        """`imposed`: whether messages are held back as the model says; otherwise it only tells what to expect of a link
        that something else imposes."""
        self.model = model
        self.imposed = imposed
        self.sent = Sent()
        self.offset = 0.0
        """the neighbour's monotonic clock minus this node's, s: the headers' times are by the receiver's clock"""
        self._channel = channel
        self._pool = pool
        self._in_flight: deque[tuple[dist.Work, Frame]] = deque()
        self._closed = closed
        self._opened: float | None = None
        self._unseen = 0 if imposed else TRANSPORT_HEADER
        self._line: DelayLine | None = None
        if isinstance(clock, WallClock) and imposed and not model.settings.bare:
            self._line = DelayLine(channel, pool, latency)

    def send(self, frame: Frame, clock: Clock) -> None:
        """Send a filled frame; it belongs to the link from now on."""
        nbytes = HEADER_BYTES + frame.length
        now = clock.now()
        t = self.model.transmit(nbytes + self._unseen, now)
        self.sent += Sent(1, frame.length, HEADER_BYTES, t.retransmitted, t.busy, t.queued, t.closed, t.framing)
        if t.opened is not None and t.opened != self._opened and self._closed is not None:
            self._closed(now + t.queued, t.opened)
            self._opened = t.opened
        ended, arrival = t.ended, t.arrival
        if isinstance(clock, WallClock):
            ended, arrival = clock.host(ended), clock.host(arrival)
            frame.write_header(ended + self.offset, arrival + self.offset, t.back_to_back)
        else:
            frame.write_header(ended, arrival, t.back_to_back)
        if self._line is not None:
            self._line.hold(frame, arrival)
        else:
            self._in_flight.append((self._channel.send(frame.on_the_wire), frame))
        clock.wait_until(t.accepted)

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
        self._error: Exception | None = None
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
            except Exception as error:  # raised by the next `hold`, or by `close`
                self._error = error
                return
            self._pool.give(frame)

    def _sleep_until(self, moment: float) -> None:
        woken_for = moment - self._lateness
        if woken_for > time.monotonic():
            sleep_until(woken_for)
            late = time.monotonic() - woken_for
            self._lateness += self.LEARNING if late > self._lateness else -self.LEARNING


class IncomingLink:
    """Receives messages from one neighbour; `meter` measures what their link gave them."""

    WAITED = 1e-4
    """s; a receive that took longer than this had to wait for its message"""

    def __init__(self, channel: Channel, pool: FramePool, posted: int = POSTED, imposed: bool = True) -> None:
        """`imposed`: whether messages come when their sender says, as it held them back, or it only expected so."""
        self._imposed = imposed
        self.meter = Meter()
        self._channel = channel
        self._pool = pool
        self._posted: deque[tuple[dist.Work, Frame]] = deque()
        for _ in range(posted):
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
            self.meter.take(header, header.arrival, waited=header.arrival > asked)
        else:
            arrived = time.monotonic()
            # What was due before it was asked for tells when it was asked for, not when it came.
            due = not self._imposed or asked < header.arrival
            waited = due and arrived - asked > self.WAITED
            self.meter.take(header, arrived, waited)
        return frame
