"""A pipelined ring all-reduce as SimGrid predicts it: prints the seconds until the slowest node has its result.

    python3 benchmarks/simgrid_ring.py \
        '{"chunks": [500000, 500000], "frame": 16384, "header": 28, "rate": 9.65e6, "delay": 0.005}'

Run by a Python that has SimGrid (Debian: python3-simgrid), by itself: a process can have one SimGrid engine only.

Each node is three actors: one receives, reduces at no cost and passes on; one puts frame after frame on the link; one
at the link's far end lets each arrive `delay` later. So a link is two of SimGrid's, one with the rate and no latency,
one with the delay and no limit: SimGrid shares a link evenly between messages that are under way together, where a
wire sends one after the other. Directions share nothing. SimGrid's corrections for TCP are off (`CONFIGURATION`).
"""

from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import dataclass

from simgrid import Actor, Engine, Host, Link, LinkInRoute, Mailbox, NetZone, Semaphore

CONFIGURATION = (
    "network/model:CM02",
    "network/bandwidth-factor:1",
    "network/latency-factor:1",
    "network/weight-S:0",
    "network/TCP-gamma:1e15",  # bytes: the window never limits
    "network/crosstraffic:0",
)

UNLIMITED = 1e15
"""bytes/s"""


@dataclass(frozen=True)
class Ring:
    chunks: tuple[int, ...]
    """payload bytes of each; as many as nodes"""
    frame: int
    """payload bytes of the largest message"""
    header: int
    """bytes of each message besides"""
    rate: float
    """bit/s of each link that messages get, framing taken off"""
    delay: float
    """of each link, s"""

    def frames(self, chunk: int) -> list[int]:
        """Bytes of the messages of a chunk, headers included."""
        octets = self.chunks[chunk % len(self.chunks)]
        whole, rest = divmod(octets, self.frame)
        return [self.header + self.frame] * whole + ([self.header + rest] if rest else [])


class Node:
    def __init__(self, ring: Ring, rank: int, zone: NetZone) -> None:
        size = len(ring.chunks)
        self._ring = ring
        self._rank = rank
        self._hops = 2 * (size - 1)
        self._outgoing: deque[int] = deque()
        self._waiting = Semaphore(0)
        self._far_end = Mailbox.by_name(f"far end {rank}")
        self._arrived, self._next_arrived = (Mailbox.by_name(f"arrived {other}") for other in (rank, (rank + 1) % size))
        self._host, self._far = (zone.create_host(f"{what} {rank}", 1e9) for what in ("node", "far end"))
        self.finished = 0.0

    def connect(self, zone: NetZone, following: Node) -> None:
        """The link to the next node."""
        rate = zone.create_link(f"rate {self._rank}", self._ring.rate / 8).set_latency(0.0).seal()
        delay = zone.create_link(f"delay {self._rank}", UNLIMITED).set_latency(self._ring.delay).seal()
        _route(zone, self._host, self._far, rate)
        _route(zone, self._far, following._host, delay)

    def start(self) -> None:
        node = Actor.create(f"node {self._rank}", self._host, self._reduce)
        self._arrived.set_receiver(node)  # messages are under way before they are asked for
        Actor.create(f"sender {self._rank}", self._host, self._send).daemonize()
        Actor.create(f"wire {self._rank}", self._far, self._carry).daemonize()

    def _reduce(self) -> None:
        for octets in self._ring.frames(self._rank):
            self._queue(octets)
        for hop in range(self._hops):
            for _ in self._ring.frames(self._rank - hop - 1):
                octets = self._arrived.get()
                if hop < self._hops - 1:
                    self._queue(octets)
        self.finished = Engine.clock

    def _queue(self, octets: int) -> None:
        self._outgoing.append(octets)
        self._waiting.release()

    def _send(self) -> None:
        while True:
            self._waiting.acquire()
            octets = self._outgoing.popleft()
            self._far_end.put(octets, octets)

    def _carry(self) -> None:
        while True:
            octets = self._far_end.get()
            self._next_arrived.put_init(octets, octets).detach()


def _route(zone: NetZone, source: Host, target: Host, link: Link) -> None:
    zone.add_route(source.netpoint, target.netpoint, None, None, [LinkInRoute(link)], False)


def predict(ring: Ring) -> float:
    engine = Engine([sys.argv[0], "--log=root.thres:warning", *(f"--cfg={item}" for item in CONFIGURATION)])
    zone = NetZone.create_full_zone("ring")
    nodes = [Node(ring, rank, zone) for rank in range(len(ring.chunks))]
    for rank, node in enumerate(nodes):
        node.connect(zone, nodes[(rank + 1) % len(nodes)])
    zone.seal()
    for node in nodes:
        node.start()
    engine.run()
    return max(node.finished for node in nodes)


if __name__ == "__main__":
    print(predict(Ring(**json.loads(sys.argv[1]))))
