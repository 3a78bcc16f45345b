from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lockstep import exchange
from methods import make

from node_agent.compression.base import StepContext
from node_agent.compression.compressor import Compressor
from node_agent.compression.values import Shares

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def fp16(length: int) -> Compressor:
    return make("fp16", {"w": (length,)})


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7, 50])
def test_sums_saturate_and_never_overflow(nodes: int) -> None:
    gradient = torch.tensor([3e38, -3e38, 65504.0, 60000.0, 1.0, 0.0])
    outcomes, _ = exchange([fp16(6) for _ in range(nodes)], [{"w": gradient}] * nodes)
    mean = outcomes[-1].mean[0]
    assert mean[0] == -mean[1] == mean[2] == 32 * (2047 // nodes) * nodes
    torch.testing.assert_close(mean[4:], torch.tensor([1.0, 0.0]), rtol=nodes / 2048, atol=0)


@given(st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=6))
def test_mean_is_that_of_what_each_said(gradients: list[list[float]]) -> None:
    nodes = len(gradients)
    shares = Shares(torch.float16, nodes)
    outcomes = [shares.decode(shares.encode(torch.tensor(g)), 4).double() for g in gradients]
    limit = 32 * (2047 // nodes) * nodes
    exact = torch.tensor(gradients, dtype=torch.float64).clamp(-limit, limit)
    torch.testing.assert_close(torch.stack(outcomes), exact, rtol=2**-11, atol=nodes * 2**-25)


def test_half_the_bytes_and_all_the_values() -> None:
    _, ((one,),) = exchange([fp16(100)], [{"w": torch.randn(100)}])
    assert one.nbytes == 200
    assert one.values == 100


def test_too_many_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="2047"):
        next(fp16(3).rounds(["w"], [torch.randn(3)], StepContext(2048, 0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 50, 255, 300, 2047])
def test_no_sum_of_shares_leaves_the_range(dtype: torch.dtype, nodes: int) -> None:
    largest = torch.finfo(torch.float32).max
    shares = Shares(dtype, nodes)
    octets = shares.encode(torch.tensor([largest, -largest, 1.0]))
    total = octets.view(dtype).clone()
    for _ in range(nodes - 1):
        total += octets.view(dtype)
    summed = shares.decode(total.view(torch.uint8), 3)
    assert summed.isfinite().all()
    assert summed[0] == -summed[1] > 0


@pytest.mark.parametrize("name", ["bf16", "randomk"])
def test_a_lone_node_says_its_largest_gradient(name: str) -> None:
    gradient = torch.full((1, 8), 3e38)
    compressor = make(name, {"w": (1, 8)}, **({"values": "bfloat16", "density": 1.0} if name == "randomk" else {}))
    (decoded,) = compressor.decode(compressor.encode([gradient]))
    torch.testing.assert_close(decoded, gradient, rtol=2**-8, atol=0)


def test_means_of_bfloat16_saturate() -> None:
    gradients = {"w": torch.tensor([1.5e38, -1.5e38])}
    outcomes, _ = exchange([make("bf16", {"w": (2,)}) for _ in range(4)], [gradients] * 4)
    assert outcomes[0].mean[0].isfinite().all()
