"""Several nodes in one process: their exchanges advance round by round, as the ring would let them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from node_agent.compression.base import Compressor, Exchanged, Payload, StepContext

Gradients = dict[str, Tensor]
Lockstep = Callable[..., tuple[list[Exchanged], list[list[Payload]]]]


def exchange(
    nodes: Sequence[Compressor], gradients: Sequence[Gradients], step: int = 0
) -> tuple[list[Exchanged], list[list[Payload]]]:
    """One exchange among `nodes`; node k brings `gradients[k]`. Returns every node's outcome, and for every round the
    nodes' payloads, as they were before the ring had them. Sums replace the payloads' own data, as the ring's do."""
    context = StepContext(world_size=len(nodes), step=step)
    running = [
        node.rounds(list(mine), list(mine.values()), context) for node, mine in zip(nodes, gradients, strict=True)
    ]
    replies: list[Tensor | list[Tensor] | None] = [None] * len(nodes)
    outcomes: list[Exchanged] = []
    sent: list[list[Payload]] = []
    while True:
        payloads: list[Payload] = []
        for rounds, reply in zip(running, replies, strict=True):
            try:
                payloads.append(rounds.send(reply))
            except StopIteration as finished:
                outcomes.append(finished.value)
        if outcomes:
            assert len(outcomes) == len(nodes), "some nodes had more to say than others"
            return outcomes, sent
        assert len({payload.reduction for payload in payloads}) == 1
        sent.append([Payload(payload.data.clone(), payload.reduction, payload.values) for payload in payloads])
        if payloads[0].reduction == "aligned":
            total = payloads[0].data.clone()
            for payload in payloads[1:]:
                assert payload.data.dtype == total.dtype
                total += payload.data
            for payload in payloads:
                payload.data.copy_(total)
            replies = [payload.data for payload in payloads]
        else:
            replies = [[payload.data for payload in payloads] for _ in nodes]


@pytest.fixture
def lockstep() -> Lockstep:
    return exchange


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
