"""Several nodes in one process: their exchanges advance round by round, as a ring would let them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from node_agent.compression.base import Round, StepContext
from node_agent.compression.compressor import Compressor, Exchanged


def exchange(
    nodes: Sequence[Compressor], gradients: Sequence[dict[str, Tensor]], step: int = 0, seed: int = 0
) -> tuple[list[Exchanged], list[list[Round]]]:
    """One exchange, to which node k brings `gradients[k]`. Every node's outcome, and of each round what each node sent,
    the sum in place of what was summed."""
    running = [
        node.rounds(list(mine), list(mine.values()), StepContext(len(nodes), step, rank, seed))
        for rank, (node, mine) in enumerate(zip(nodes, gradients, strict=True))
    ]
    outcomes: list[Exchanged] = []
    sent: list[list[Round]] = []
    replies: list[Tensor | list[Tensor] | None] = [None] * len(nodes)
    while True:
        turn: list[Round] = []
        for rounds, reply in zip(running, replies, strict=True):
            try:
                turn.append(rounds.send(reply))
            except StopIteration as finished:
                outcomes.append(finished.value)
        if outcomes:
            assert not turn, "some nodes had more to say than others"
            return outcomes, sent
        assert len({one.reduction for one in turn}) == 1
        sent.append(turn)
        if turn[0].reduction == "aligned":
            total = sum((one.data for one in turn[1:]), start=turn[0].data.clone())
            replies = [one.data.copy_(total) for one in turn]
        else:
            replies = [[one.data for one in turn] for _ in nodes]
