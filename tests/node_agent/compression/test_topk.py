from __future__ import annotations

import pytest
import torch

from node_agent.compression.base import Layer, StepContext, alone
from node_agent.compression.settings import TopKSettings
from node_agent.compression.topk import TopK


@pytest.mark.parametrize("shape", [(40, 50), (8, 4, 3, 3)])
@pytest.mark.parametrize("density", [1e-6, 0.01, 0.155, 1.0])
def test_against_torch(shape: tuple[int, ...], density: float) -> None:
    gradient = torch.randn(shape)
    method = TopK(TopKSettings(density=density), [Layer("w", shape)])
    outcome, (payload,) = alone(method.rounds(["w"], [gradient], StepContext(1, 0)))
    count = max(1, int(density * gradient.numel()))
    chosen = gradient.flatten().abs().topk(count).indices
    expected = torch.zeros(gradient.numel()).index_copy_(0, chosen, gradient.flatten()[chosen]).view(shape)
    assert torch.equal(outcome.own[0], expected)
    assert torch.equal(outcome.mean[0], expected)
    assert payload.values == count


def test_size_of_the_message() -> None:
    method = TopK(TopKSettings(density=0.01), [Layer("w", (250, 200)), Layer("v", (300, 300))])
    gradients = [torch.randn(250, 200), torch.randn(300, 300)]
    _, (payload,) = alone(method.rounds(["w", "v"], gradients, StepContext(1, 0)))
    assert payload.nbytes == 12 + 2 * 12 + 500 * (2 + 4) + 900 * (4 + 4)
