"""Ring collectives over the links to two neighbours.

| collective | messages per node | bytes per node | latency |
|---|---|---|---|
| all-reduce of S bytes | 2 (N-1) chunks | 2 (N-1)/N S | at most 2 (N-1) delays |
| all-gather of s_i bytes | N-1 payloads | sum of all s_i but the next node's | N-1 delays |

Every node sends to the next one and receives from the one before. Chunks travel in frames: a node works on a frame and
passes it on while the following ones are still under way, so that on links whose rate is the bottleneck the delays of
all hops but one vanish behind the transfer (the segmentation of Patarasuk and Yuan, JPDC 69(2), 2009, section 3).

The owner of a chunk keeps exactly the bytes that it hands to the others: all nodes end with identical buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from node_agent import bare
from node_agent.clock import Clock
from node_agent.collectives import Reduce
from node_agent.job import FRAME
from node_agent.link import IncomingLink, OutgoingLink
from node_agent.transport import HEADER_BYTES, Channel, FramePool

_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda arrived, own: arrived.add_(own),
    "min": lambda arrived, own: torch.minimum(arrived, own, out=arrived),
    "max": lambda arrived, own: torch.maximum(arrived, own, out=arrived),
}


def chunk_bounds(numel: int, size: int) -> list[tuple[int, int]]:
    """The elements [start, stop) of each of `size` chunks; their lengths differ by at most one."""
    cuts = [numel * i // size for i in range(size + 1)]
    return list(pairwise(cuts))


def all_reduce_traffic(numel: int, itemsize: int, size: int, rank: int, frame: int) -> tuple[int, int]:
    """Payload bytes and messages that node `rank` sends in one all-reduce with frames of `frame` bytes."""
    octets = messages = 0
    bounds = chunk_bounds(numel, size)
    for hop in range(2 * (size - 1)):
        start, stop = bounds[(rank - hop) % size]
        octets += (stop - start) * itemsize
        messages += -(-(stop - start) * itemsize // frame)
    return octets, messages


def all_gather_traffic(lengths: Sequence[int], rank: int, frame: int) -> tuple[int, int]:
    """Payload bytes and messages that node `rank` sends in one all-gather of payloads of these bytes, one a node, with
    frames of `frame` bytes; an empty payload takes a message, too."""
    size = len(lengths)
    passed = [lengths[(rank - hop) % size] for hop in range(size - 1)]
    return sum(passed), sum(max(1, -(-length // frame)) for length in passed)


class Ring:
    """This node's place in the ring. All collectives are called in the same order by all nodes, from one thread at a
    time; `clock` is that thread's. A ring of one has no links and does nothing.

    Messages fill at most a frame of `pool`, of one size on all nodes. `bare_channels`, to the next node and from the
    previous one, are for a ring of which no link imposes anything, under the wall clock: all nodes have them or none.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        clock: Clock,
        outgoing: OutgoingLink | None = None,
        incoming: IncomingLink | None = None,
        pool: FramePool | None = None,
        bare_channels: tuple[Channel, Channel] | None = None,
    ) -> None:
        if (size > 1) != (outgoing is not None and incoming is not None and pool is not None):
            raise ValueError(f"a ring of {size} needs {'links' if size > 1 else 'no links'}")
        self.rank = rank
        self.size = size
        self.clock = clock
        self.outgoing = outgoing
        self.incoming = incoming
        self._pool = pool
        self._frame = pool.room if pool is not None else FRAME
        self._bare = bare_channels
        self._scratch = FramePool(bare.LONGEST)

    def all_reduce(self, tensor: Tensor, op: Reduce = "sum") -> None:
        """Reduce a contiguous CPU tensor of any length over all nodes, in place.

        Partial results are rounded to the tensor's own type at every hop. Raises LinkError if a neighbour fails.
        """
        if not tensor.is_contiguous() or tensor.device.type != "cpu":
            raise ValueError("all_reduce takes a contiguous tensor in host memory")
        if self.outgoing is None or self.incoming is None or self._pool is None:
            return
        flat = tensor.view(-1)
        bounds = chunk_bounds(flat.numel(), self.size)
        reduce = _REDUCTIONS[op]
        if self._bare is not None:
            self.outgoing.sent += bare.all_reduce(flat, bounds, self.rank, reduce, *self._bare, self._scratch)
            return
        owned_at, hops = self.size - 2, 2 * (self.size - 1)

        start, stop = bounds[self.rank]
        self._send_message(flat[start:stop].view(torch.uint8))
        for hop in range(hops):
            start, stop = bounds[(self.rank - hop - 1) % self.size]
            while start < stop:
                frame = self.incoming.receive(self.clock)
                arrived = frame.payload.view(flat.dtype)
                own = flat[start : start + arrived.numel()]
                if hop <= owned_at:
                    reduce(arrived, own)
                if hop >= owned_at:
                    own.copy_(arrived)
                start += arrived.numel()
                if hop < hops - 1:
                    self.outgoing.send(frame, self.clock)
                else:
                    self._pool.give(frame)
        self.outgoing.flush()

    def all_gather(self, payload: Tensor) -> list[Tensor]:
        """Every node's payload (1-D, bytes, of its own length), in rank order.

        The lengths travel in the messages' headers, not in a round of their own. Raises LinkError if a neighbour fails.
        """
        if payload.dtype != torch.uint8 or payload.dim() != 1:
            raise ValueError(f"all_gather takes a 1-D tensor of bytes, found {payload.dtype}, {payload.dim()}-D")
        gathered = [payload] * self.size
        if self.outgoing is None or self.incoming is None or self._pool is None:
            return gathered
        self._send_message(payload, at_least_one=True)
        for hop in range(self.size - 1):
            whole: Tensor | None = None
            filled = 0
            while whole is None or filled < whole.numel():
                frame = self.incoming.receive(self.clock)
                if whole is None:
                    whole = torch.empty(frame.total, dtype=torch.uint8)
                whole[filled : filled + frame.length] = frame.payload
                filled += frame.length
                if hop < self.size - 2:
                    self.outgoing.send(frame, self.clock)
                else:
                    self._pool.give(frame)
            gathered[(self.rank - hop - 1) % self.size] = whole
        self.outgoing.flush()
        return gathered

    def _send_message(self, octets: Tensor, at_least_one: bool = False) -> None:
        assert self.outgoing is not None
        assert self._pool is not None
        total = octets.numel()
        for start in range(0, max(total, int(at_least_one)), self._frame):
            self.outgoing.send(self._pool.take().fill(octets[start : start + self._frame], total), self.clock)

    def all_reduce_bytes(self, numel: int, itemsize: int = 4) -> int:
        """Bytes, headers included, that this node sends to all-reduce `numel` values, by the formula."""
        header = 0 if self._bare is not None else HEADER_BYTES
        octets, messages = all_reduce_traffic(numel, itemsize, self.size, self.rank, self._frame)
        return octets + messages * header

    def all_gather_bytes(self, lengths: Sequence[int]) -> int:
        """Bytes, headers included, that this node sends to all-gather payloads of these bytes, by the formula."""
        octets, messages = all_gather_traffic(lengths, self.rank, self._frame)
        return octets + messages * HEADER_BYTES

    @property
    def quiet_at(self) -> float:
        """When everything that this node has sent will have arrived, s by the run's clock."""
        return 0.0 if self.outgoing is None else self.outgoing.model.last_arrival

    def close(self) -> None:
        """Send what is still held back."""
        if self.outgoing is not None:
            self.outgoing.close()
