"""What travels between two neighbours: messages of a header and a payload, over torch.distributed point-to-point."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from node_agent.job import FRAME
from node_agent.link_model import ConnectionLost, LinkError

_HEADER = struct.Struct("<HHIQdd")
HEADER_BYTES = _HEADER.size
_MAGIC = 0xE51A
_BACK_TO_BACK = 1


class Header(NamedTuple):
    """What precedes each message's payload: its length, the length of the whole that it is a part of, and two times
    (the run's under the virtual clock, the receiving host's monotonic one under the wall clock)."""

    length: int
    total: int
    ended: float
    arrival: float
    back_to_back: bool


class Frame:
    """A buffer for one message: header, then a payload of at most `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.octets = torch.empty(HEADER_BYTES + room, dtype=torch.uint8)
        self._view = self.octets.numpy().data
        self.length = 0
        self.total = 0

    @property
    def payload(self) -> Tensor:
        """The payload's bytes, shared with the buffer."""
        return self.octets[HEADER_BYTES : HEADER_BYTES + self.length]

    @property
    def on_the_wire(self) -> Tensor:
        return self.octets[: HEADER_BYTES + self.length]

    def space(self, numel: int, dtype: torch.dtype) -> Tensor:
        """The payload's place as a tensor to work in."""
        return self.octets[HEADER_BYTES : HEADER_BYTES + numel * dtype.itemsize].view(dtype)

    def fill(self, payload: Tensor, total: int) -> Frame:
        self.length, self.total = payload.numel(), total
        self.payload.copy_(payload)
        return self

    def write_header(self, ended: float, arrival: float, back_to_back: bool) -> None:
        flags = _BACK_TO_BACK if back_to_back else 0
        _HEADER.pack_into(self._view, 0, _MAGIC, flags, self.length, self.total, ended, arrival)

    def read_header(self) -> Header:
        """Raises LinkError if what arrived is no message of ours."""
        magic, flags, length, total, ended, arrival = _HEADER.unpack_from(self._view, 0)
        if magic != _MAGIC or length > self.room or length > total:
            raise LinkError(f"not a message: magic {magic:#06x}, length {length} of {total}")
        self.length, self.total = length, total
        return Header(length, total, ended, arrival, bool(flags & _BACK_TO_BACK))


class FramePool:
    """Frames of `room` bytes, in use again once their message is through. Safe to use from several threads."""

    def __init__(self, room: int = FRAME) -> None:
        self.room = room
        self._free: deque[Frame] = deque()

    def take(self) -> Frame:
        try:
            return self._free.pop()
        except IndexError:
            return Frame(self.room)

    def give(self, frame: Frame) -> None:
        self._free.append(frame)


@dataclass(frozen=True)
class Channel:
    """A numbered path to one neighbour over torch.distributed's point-to-point operations."""

    peer: int
    tag: int
    name: str
    timeout: float
    group: dist.ProcessGroup | None = None
    """None: the default one"""

    def send(self, octets: Tensor) -> dist.Work:
        """Begin to send; raises ConnectionLost if the neighbour is known to be gone."""
        with self._translated():
            work = dist.isend(octets, self.peer, self.group, self.tag)
        assert work is not None
        return work

    def receive(self, octets: Tensor) -> dist.Work:
        """Begin to receive; raises ConnectionLost if the neighbour is known to be gone."""
        with self._translated():
            work = dist.irecv(octets, self.peer, self.group, self.tag)
        assert work is not None
        return work

    def finish(self, work: dist.Work) -> None:
        """Wait for an operation; raises ConnectionLost if the neighbour is gone or silent for `timeout` seconds."""
        with self._translated():
            work.wait(timedelta(seconds=self.timeout))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # all that torch.distributed raises here
            if "timed out" in str(error).lower():
                reason = f"silent for {self.timeout:.0f} s"
            else:
                reason = f"connection lost ({str(error).splitlines()[0].split('] ')[-1].split('. ')[0]})"
            raise ConnectionLost(f"link {self.name}: {reason}") from error


@dataclass(frozen=True)
class Comparison:
    """Of a node with the next one, by messages there and back past the links."""

    latency: float
    """of a message over the bare transport, s"""
    offset: float
    """the neighbour's monotonic clock minus this node's, s: from the message that was fastest there and back, if that
    took equally long both ways (RFC 5905, section 8); 0 on the same host, whose clock they share"""
    round_trip: float
    """of that message, s: twice as much as the offset may be wrong by"""
    same_host: bool


class Handshake:
    """A number to the next node and one from the previous, past the links and their shaping.

    The first round opens the connections, and every node of a ring goes through it before its first message: either
    end of a pair blocks in its first operation until the other one turns to it as well. A node that waited for one
    neighbour's message before it had ever turned to the other would hold up the whole ring, itself included.
    """

    PINGS, PAUSE = 8, 0.02
    """messages there and back, and the pause (s) before each: the longer a host has been at rest, the later it answers
    (here 0.1 ms after 1 ms, 0.3 ms after 50 ms), and most messages of a run come after a pause"""

    AGAIN = 4
    """messages there and back when clocks are compared again"""

    def __init__(self, rank: int, size: int, to_next: Channel, from_previous: Channel) -> None:
        """Raises LinkError if a neighbour does not answer."""
        self._rank = rank
        self._size = size
        self._next = to_next
        self._previous = from_previous
        self._host = _host()
        self._round(0.0)
        self.next: Comparison
        """with the next node"""
        if rank != 0:
            self._same_before = self._answer(self.PINGS)
        self.next = self._ping(self.PINGS, self.PAUSE)
        if rank == 0:
            self._same_before = self._answer(self.PINGS)

    @property
    def latency(self) -> float:
        """What a message takes to the next node over the bare transport, s: the least that was seen at the beginning,
        as whatever a busy host adds is no property of the transport."""
        return self.next.latency

    def compare_clocks(self) -> None:
        """Measure once more how the clocks of neighbours on different hosts differ, as they drift apart. All nodes have
        to call it, while nothing is under way on the links."""
        if self._rank != 0 and not self._same_before:
            self._answer(self.AGAIN)
        if not self.next.same_host:
            latest = self._ping(self.AGAIN, 0.0)
            self.next = replace(self.next, offset=latest.offset, round_trip=latest.round_trip)
        if self._rank == 0 and not self._same_before:
            self._answer(self.AGAIN)

    def _ping(self, number: int, pause: float) -> Comparison:
        seen = []
        for _ in range(number):
            time.sleep(pause)
            began = time.monotonic()
            self._next.finish(self._next.send(_pair(self._host, began)))
            answer = _pair()
            self._next.finish(self._next.receive(answer))
            ended = time.monotonic()
            seen.append((ended - began, float(answer[1]) - (began + ended) / 2))
        round_trip, offset = min(seen)
        same = float(answer[0]) == self._host
        return Comparison(round_trip / 2, 0.0 if same else offset, round_trip, same)

    def _answer(self, number: int) -> bool:
        """Whether who asks is on the same host."""
        for _ in range(number):
            asked = _pair()
            self._previous.finish(self._previous.receive(asked))
            self._previous.finish(self._previous.send(_pair(self._host, time.monotonic())))
        return float(asked[0]) == self._host

    def meet(self, moment: float = 0.0) -> float:
        """Return when every node of the ring has called this, at nearly the same time: the latest of their moments."""
        for _ in range(self._size - 1):
            moment = self._round(moment)
        return moment

    def _round(self, moment: float) -> float:
        return max(moment, pass_on(moment, self._next, self._previous))


def pass_on(number: float, to_next: Channel, from_previous: Channel) -> float:
    """Send a number to the next node, and return the one of the previous node, which does the same. The first time,
    this opens the connections of their group. Raises LinkError if a neighbour does not answer."""
    arriving = _number()
    sent = to_next.send(_number(number))
    received = from_previous.receive(arriving)
    to_next.finish(sent)
    from_previous.finish(received)
    return float(arriving)


def _number(value: float = 0.0) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _pair(first: float = 0.0, second: float = 0.0) -> Tensor:
    return torch.tensor([first, second], dtype=torch.float64)


def _host() -> float:
    """A number that two processes share if they share a monotonic clock, and hardly any others do."""
    facts = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    with suppress(OSError):  # kernels before 5.6 have one time for all
        facts += os.readlink("/proc/self/ns/time").encode()
    return float(int.from_bytes(hashlib.sha256(facts).digest()[:6], "big"))
