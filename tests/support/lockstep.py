"""Several nodes in one process: their exchanges advance round by round, as a ring would let them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from node_agent.compression.base import Round, StepContext
from node_agent.compression.compressor import Compressor, Exchanged

Gradients = dict[str, Tensor]


def exchange(
    nodes: Sequence[Compressor], gradients: Sequence[Gradients], step: int = 0
) -> tuple[list[Exchanged], list[list[Round]]]:
    """One exchange among `nodes`; node k brings `gradients[k]`. Returns every node's outcome, and for every round what
    each node put in, as it was before the ring had it. Sums replace the rounds' own data, as the ring's do."""
    running = [
        node.rounds(list(mine), list(mine.values()), StepContext(len(nodes), step, rank, seed=node.seed))
        for rank, (node, mine) in enumerate(zip(nodes, gradients, strict=True))
    ]
    replies: list[Any] = [None] * len(nodes)
    sent: list[list[Round]] = []
    while True:
        outcomes: list[Exchanged] = []
        rounds: list[Round] = []
        for one, reply in zip(running, replies, strict=True):
            try:
                rounds.append(one.send(reply))
            except StopIteration as finished:
                outcomes.append(finished.value)
        if outcomes:
            assert len(outcomes) == len(nodes), "some nodes had more to say than others"
            return outcomes, sent
        assert len({(one.reduction, one.data.dtype) for one in rounds}) == 1
        sent.append([replace(one, data=one.data.clone()) for one in rounds])
        if rounds[0].reduction == "aligned":
            total = rounds[0].data.clone()
            for one in rounds[1:]:
                total += one.data
            for one in rounds:
                one.data.copy_(total)
            replies = [one.data for one in rounds]
        else:
            replies = [[one.data for one in rounds] for _ in nodes]
