from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from node_agent.compression.base import Layer, StepContext, alone
from node_agent.compression.fp16 import FP16
from node_agent.compression.settings import FP16Settings

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def fp16(length: int) -> FP16:
    return FP16(FP16Settings(), [Layer("w", (length,))])


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7, 50])
def test_sums_saturate_and_never_overflow(lockstep: Any, nodes: int) -> None:
    gradient = torch.tensor([3e38, -3e38, 65504.0, 60000.0, 1.0, 0.0])
    outcomes, _ = lockstep([fp16(6) for _ in range(nodes)], [{"w": gradient}] * nodes)
    mean = outcomes[-1].mean[0]
    assert mean[0] == -mean[1] == mean[2] == 32 * (2047 // nodes) * nodes
    torch.testing.assert_close(mean[4:], torch.tensor([1.0, 0.0]), rtol=nodes / 2048, atol=0)


@given(st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=6))
def test_mean_is_that_of_what_each_said(gradients: list[list[float]]) -> None:
    nodes = len(gradients)
    outcomes = [
        alone(fp16(4).rounds(["w"], [torch.tensor(g)], StepContext(nodes, 0)))[0].own[0].double() for g in gradients
    ]
    limit = 32 * (2047 // nodes) * nodes
    exact = torch.tensor(gradients, dtype=torch.float64).clamp(-limit, limit)
    torch.testing.assert_close(torch.stack(outcomes), exact, rtol=2**-11, atol=nodes * 2**-25)


def test_half_the_bytes_and_all_the_values() -> None:
    _, (payload,) = alone(fp16(100).rounds(["w"], [torch.randn(100)], StepContext(3, 0)))
    assert payload.nbytes == 200
    assert payload.values == 100


def test_too_many_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="2047"):
        next(fp16(3).rounds(["w"], [torch.randn(3)], StepContext(2048, 0)))
