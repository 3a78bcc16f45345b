"""What one direction of a link does to each packet that the kernel's shaping lets pass: loss, delay, jitter, contact.

Pure: it computes moments and never waits, reads or writes. Packets come and go as frames of TUN devices
(`edgesim.network.segments`), of which one may hold several of a TCP connection. All moments are by the host's monotonic
clock, s.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from edgesim.network.segments import Frame, is_large, on_wire
from node_agent.impairments import Jitter, Losses
from node_agent.job import LinkSettings

MOST_HELD = 64 * 2**20
"""bytes that may wait for contact where the link's settings name no queue"""

PACE = 1.01
"""the rate here over the kernel's, so that a queue which a moment of a busy host left does not stay"""

BLOCK = 1024
"""random numbers drawn at once"""

LATE = 1e-3
"""s; what a packet may be late by without being counted"""


@dataclass
class Counters:
    """What happened to the packets of one direction: those on the wire, of which one frame may hold several, with their
    bytes from the header of IP on."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    lost: int = 0
    """packets, by the link's own loss"""
    held: int = 0
    """packets that waited for contact"""
    overflowed: int = 0
    """packets dropped because too many bytes waited for contact"""
    refused: int = 0
    """packets that the receiving device did not take: it was down"""
    late: int = 0
    """packets written more than a millisecond after they were due"""
    lateness_sum: float = 0.0
    """s, over all packets written; early ones count negative"""
    lateness_max: float = 0.0
    """s"""

    @property
    def late_share(self) -> float:
        """The share of packets that were late: beyond a hundredth the host was too busy for what was asked of it."""
        return self.late / self.packets_out if self.packets_out else 0.0

    @property
    def lateness_mean(self) -> float:
        return self.lateness_sum / self.packets_out if self.packets_out else 0.0


class Passage:
    """One direction of a link, packet after packet.

    A packet that arrives while there is contact occupies the link for as long as its bits take, is then lost or not,
    and is due after delay and jitter. Without contact it waits; once there is, what waits goes on in order, and what
    arrives meanwhile queues behind it. The kernel has imposed the rate already, but its token bucket lets the first
    packets after a pause pass without the time that their bits take: this puts them where they belong.

    Until the run's clock has been started, the state of its moment 0 holds and every link has contact.
    """

    def __init__(self, settings: LinkSettings, generator: np.random.Generator) -> None:
        self.settings = settings
        self.counters = Counters()
        self._generator = generator
        self._limit = MOST_HELD if settings.queue is None else settings.queue
        self._origin: float | None = None

        self._state = settings.state_at(0.0)
        self._state_ends = np.inf
        self._losses = Losses(self._state)
        self._lost: list[bool] = []
        self._jitter = Jitter(settings.jitter_kind)
        self._deviations: list[float] = []

        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._free = -np.inf
        """when the link has sent all that it was let send so far"""
        self._opens, self._closes = -np.inf, np.inf

        self._in_order: deque[tuple[float, bytes]] = deque()
        self._last_due = -np.inf
        self._overtaking: list[tuple[float, int, bytes]] = []
        self._number = 0

    def start_clock(self, origin: float, now: float) -> None:
        """The run's clock shows 0 at `origin`, from `now` on; may be called again when the clock was set."""
        self._origin = origin
        self._set_state(now)
        if self._held:  # it has not been sent until now, however long there has been contact by the clock as now set
            self._free = max(self._free, now)
        self._opens, self._closes = self._contact(max(now, self._free))

    def arrive(self, packet: bytes, now: float) -> None:
        counters = self.counters
        packets, nbytes = on_wire(packet)
        counters.packets_in += packets
        counters.bytes_in += nbytes
        begins = max(now, self._free)
        if begins >= self._closes:
            self._opens, self._closes = self._contact(begins)
        if self._held_bytes + self._queued(now) + nbytes > self._limit:
            counters.overflowed += packets
        elif self._held or begins < self._opens:
            counters.held += packets
            self._held.append(packet)
            self._held_bytes += nbytes
        else:
            self._go(packet, packets, nbytes, begins)

    def due(self, now: float) -> list[tuple[float, bytes]]:
        """The packets that are due by `now`, each with the moment at which it was, in the order of these."""
        if self._held:
            self._release(now)
        found = []
        if self.settings.reorder:
            while self._overtaking and self._overtaking[0][0] <= now:
                moment, _, packet = heapq.heappop(self._overtaking)
                found.append((moment, packet))
        else:
            in_order = self._in_order
            while in_order and in_order[0][0] <= now:
                found.append(in_order.popleft())
        return found

    def sent(self, packet: bytes, lateness: float) -> None:
        """Count a packet that was written `lateness` seconds after it was due."""
        counters = self.counters
        packets, nbytes = on_wire(packet)
        counters.packets_out += packets
        counters.bytes_out += nbytes
        counters.lateness_sum += packets * lateness
        if lateness > LATE:
            counters.late += packets
        if lateness > counters.lateness_max:
            counters.lateness_max = lateness

    def refused(self, packet: bytes) -> None:
        """Count a packet that the device did not take."""
        self.counters.refused += on_wire(packet)[0]

    @property
    def next_moment(self) -> float:
        """When `due` has something to do, if nothing arrives before; infinite if never."""
        moment = max(self._opens, self._free) if self._held else np.inf
        if self._in_order:
            return min(moment, self._in_order[0][0])
        if self._overtaking:
            return min(moment, self._overtaking[0][0])
        return moment

    def _release(self, now: float) -> None:
        """Let go what waited and has been sent by `now`."""
        while self._held:
            begins = max(self._opens, self._free)
            if begins > now:
                return
            if begins >= self._closes:
                self._opens, self._closes = self._contact(begins)
                continue
            packet = self._held.popleft()
            packets, nbytes = on_wire(packet)
            self._held_bytes -= nbytes
            self._go(packet, packets, nbytes, begins)

    def _queued(self, now: float) -> float:
        """Bytes that are yet to be sent of what has been let go."""
        return 0.0 if self._state.rate is None else max(0.0, self._free - now) * self._state.rate / 8

    def _go(self, packet: bytes, packets: int, nbytes: int, begins: float) -> None:
        """Send what the link is free for, from `begins` on."""
        if begins >= self._state_ends:
            self._set_state(begins)
        state = self._state
        now = begins
        if state.rate is not None:
            now += 8 * (nbytes + packets * self.settings.overhead) / (PACE * state.rate)
        self._free = now
        lossy = state.loss or state.bursts is not None
        if is_large(packet) and (lossy or self.settings.reorder):
            frame = Frame(packet)
            lost = [self._next_is_lost() if lossy else False for _ in range(frame.packets)]
            for part in frame.apart(lost) if self.settings.reorder else frame.without(lost):
                self._propagate(part, now)
        elif not (lossy and self._next_is_lost()):
            self._propagate(packet, now)

    def _next_is_lost(self) -> bool:
        if not self._lost:
            self._lost = self._losses.lost(BLOCK, self._generator)[::-1].tolist()
        lost = self._lost.pop()
        self.counters.lost += lost
        return lost

    def _propagate(self, packet: bytes, now: float) -> None:
        state = self._state
        moment = now + state.delay
        if state.jitter:
            if not self._deviations:
                self._deviations = self._jitter.samples(BLOCK, self._generator).tolist()
            moment = max(now, moment + state.jitter * self._deviations.pop())
        if self.settings.reorder:
            heapq.heappush(self._overtaking, (moment, self._number, packet))
            self._number += 1
        else:
            self._last_due = max(self._last_due, moment)
            self._in_order.append((self._last_due, packet))

    def _set_state(self, now: float) -> None:
        if self._origin is None:
            return
        moment = now - self._origin
        state = self.settings.state_at(moment)
        self._state_ends = self._origin + min(
            (change.at for change in self.settings.changes if change.at > moment), default=np.inf
        )
        if (state.loss, state.bursts) != (self._state.loss, self._state.bursts):
            self._losses.change(state)
            self._lost = []
        self._state = state

    def _contact(self, moment: float) -> tuple[float, float]:
        """Beginning and end of the first contact that is not over at `moment`."""
        if self.settings.schedule is None or self._origin is None:
            return -np.inf, np.inf
        for window in self.settings.schedule:
            if self._origin + window.end > moment:
                return self._origin + window.start, self._origin + window.end
        return np.inf, np.inf
