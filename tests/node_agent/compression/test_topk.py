from __future__ import annotations

import pytest
import torch
from methods import make, said

from node_agent.compression import create


@pytest.mark.parametrize("shape", [(40, 50), (8, 4, 3, 3)])
@pytest.mark.parametrize("density", [1e-6, 0.01, 0.155, 1.0])
def test_against_torch(shape: tuple[int, ...], density: float) -> None:
    gradient = torch.randn(shape)
    count = max(1, int(density * gradient.numel()))
    chosen = gradient.flatten().abs().topk(count).indices
    expected = torch.zeros(gradient.numel()).index_copy_(0, chosen, gradient.flatten()[chosen]).view(shape)
    assert torch.equal(said(make("topk", {"w": shape}, density=density), {"w": gradient})["w"], expected)


def test_size_of_the_payload() -> None:
    compressor = create("topk", density=0.01)
    payload = compressor.encode([torch.randn(250, 200), torch.randn(300, 300)])
    assert payload.kept == 500 + 900
    values, per_index = 4 * 1400, 8.2 / 8  # log2 e / 0.01 is 8.08 bits
    layers = 3 + 2 * 4 + 1 + 3 + 5 + 2  # number and shape, kind, tiling, form and count, coding
    assert 12 + 2 * layers + values < len(payload) < 12 + 2 * layers + values + 1400 * per_index + 8
