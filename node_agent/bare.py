"""All-reduce over a ring whose links impose nothing, at the speed of the transport.

No message is held back and none carries a time, so that none needs a header: what a node receives goes straight to
where it belongs and is sent on from there. Every bit of the result is that of `Ring`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from node_agent.events import Sent
from node_agent.transport import Channel, Frame, FramePool

if TYPE_CHECKING:
    import torch.distributed as dist

AHEAD = 4
"""receives posted ahead of the one that is waited for"""

SHORTEST, LONGEST = 2**20, 2**22
"""bytes of a segment: a quarter of a chunk within these bounds. Handling a message costs as much as moving some hundred
kilobytes, and without several of them under way a node would wait for whole chunks."""


def all_reduce(
    flat: Tensor,
    bounds: list[tuple[int, int]],
    rank: int,
    reduce: Callable[[Tensor, Tensor], Tensor],
    to_next: Channel,
    from_previous: Channel,
    pool: FramePool,
) -> Sent:
    """Reduce the 1-D tensor `flat` over all nodes, in place; `bounds` are its chunks, one a node.

    `pool` has room for the longest segment. Returns what this node sent. Raises LinkError if a neighbour fails.
    """
    size = len(bounds)
    owned_at, hops = size - 2, 2 * (size - 1)
    chunk = -(-flat.numel() // size) * flat.element_size()
    length = min(max(chunk // 4, SHORTEST), LONGEST) // flat.element_size()
    arriving = deque(
        (hop, start, stop) for hop in range(hops) for start, stop in _segments(bounds[(rank - hop - 1) % size], length)
    )
    posted: deque[tuple[int, Tensor, Tensor, Frame | None, dist.Work]] = deque()
    leaving: deque[tuple[dist.Work, Frame | None]] = deque()
    sent = Sent()

    def post() -> None:
        hop, start, stop = arriving.popleft()
        own = flat[start:stop]
        scratch = pool.take() if hop <= owned_at else None
        arrived = own if scratch is None else scratch.space(own.numel(), flat.dtype)
        posted.append((hop, own, arrived, scratch, from_previous.receive(arrived)))

    def send(part: Tensor, scratch: Frame | None) -> None:
        nonlocal sent
        leaving.append((to_next.send(part), scratch))
        sent += Sent(messages=1, payload_bytes=part.numel() * part.element_size())

    def finish_oldest() -> None:
        work, scratch = leaving.popleft()
        to_next.finish(work)
        if scratch is not None:
            pool.give(scratch)

    for _ in range(min(AHEAD, len(arriving))):
        post()
    for start, stop in _segments(bounds[rank], length):
        send(flat[start:stop], None)
    # Fewer would hold up the ring: every node would wait for the next one to take what it has no turn for yet.
    most_leaving = len(leaving) + AHEAD
    while posted:
        hop, own, arrived, scratch, work = posted.popleft()
        from_previous.finish(work)
        if scratch is not None:
            reduce(arrived, own) if hop < owned_at else reduce(own, arrived)
        if arriving:
            post()
        if hop == owned_at and scratch is not None:
            pool.give(scratch)
            arrived, scratch = own, None
        if hop < hops - 1:
            send(arrived, scratch)
        while len(leaving) > most_leaving:
            finish_oldest()
    while leaving:
        finish_oldest()
    return sent


def _segments(bounds: tuple[int, int], length: int) -> list[tuple[int, int]]:
    start, stop = bounds
    return [(cut, min(cut + length, stop)) for cut in range(start, stop, length)]
