from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lockstep import exchange
from methods import plain
from torch import Tensor

from node_agent.compression import create
from node_agent.compression.base import StepContext
from node_agent.compression.compressor import Compressor
from node_agent.compression.nsi import NSI, reach
from node_agent.compression.tiles import Tiling

M = torch.tensor([[1.0, 1, 0, 4], [-1, 1, 0, 0], [2, -2, 3, 3], [2, 2, 0, 0]])
# NSI of its 2 x 2 tiles: 1 + 0, 1 + sqrt(3), 2 + 0, 1.5 + 1.5


def nsi(*shapes: tuple[int, ...], **values: object) -> Compressor:
    shapes_of = {f"w{i}": shape for i, shape in enumerate(shapes)}
    return plain("nsi", shapes_of, **({"warmup_steps": 0} | values))


def method(compressor: Compressor) -> NSI:
    assert isinstance(compressor._method, NSI)
    return compressor._method


def run(compressor: Compressor, *gradients: Tensor, step: int = 0) -> list[Tensor]:
    (outcome,), _ = exchange([compressor], [{f"w{i}": g for i, g in enumerate(gradients)}], step)
    return [one.decoded() for one in outcome.said]


@pytest.mark.parametrize(
    ("density", "tiles"),
    [(0.01, [3]), (0.25, [3]), (0.3, [1, 3]), (0.5, [1, 3]), (0.51, [1, 3]), (0.6, [1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_tiles_of_largest_nsi_are_sent_whole(density: float, tiles: list[int]) -> None:
    expected = torch.zeros(4, 4)
    for tile in tiles:
        block = slice(tile // 2 * 2, tile // 2 * 2 + 2), slice(tile % 2 * 2, tile % 2 * 2 + 2)
        expected[block] = M[block]
    assert torch.equal(run(nsi((4, 4), density=density, neighbourhood=2), M)[0], expected)


def test_message_by_hand() -> None:
    payload = nsi((4, 4), density=0.5, neighbourhood=2).encode([M])
    assert payload.kept == 8
    octets = bytes(payload)
    assert octets[12:23] == struct.pack("<HBII", 0, 2, 4, 4)
    assert octets[23:27] == struct.pack("<BBH", 1, 2, 2)  # tiles, of the kernels, of side 2
    assert octets[27:32] == struct.pack("<BI", 1, 2)  # two of them, as a bitmap
    assert octets[32] == 0b1010
    assert octets[33:35] == bytes([0, 0])  # floats of 32 bits
    assert struct.unpack("<8f", octets[35:]) == (0, 4, 0, 0, 3, 3, 0, 0)


def test_equal_tiles_go_by_their_number() -> None:
    own = run(nsi((4, 4), density=0.5, neighbourhood=2), torch.ones(4, 4))[0]
    assert own.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_tile_of_three_is_a_kernel() -> None:
    kernels = torch.zeros(4, 5, 3, 3)
    kernels[2, 3] = torch.randn(3, 3) + 5
    kernels[1, 4, 0, 0] = 0.1
    own = run(nsi((4, 5, 3, 3), density=0.05), kernels)[0]
    kernels[1, 4, 0, 0] = 0
    assert torch.equal(own, kernels)


@given(
    st.builds(Tiling, rows=st.integers(1, 10), columns=st.integers(1, 10), side=st.integers(1, 4)),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_reach_is_the_shortest_prefix_that_holds_the_budget(tiling: Tiling, seed: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, tiling.entries))
    scores = torch.randint(0, 4, (tiling.tiles,), generator=torch.Generator().manual_seed(seed)).float()
    order = torch.sort(scores, descending=True, stable=True).indices
    held = tiling.sizes()[order].cumsum(0)
    expected = order[: int((held < budget).sum()) + 1].sort().values
    assert torch.equal(reach(scores, tiling, budget), expected)


def test_the_bound_is_of_the_tiles_and_values_that_can_be() -> None:
    # 134 x 63 tiles, of which the lowest 63 are 1 x 3 and the others 3 x 3. These and 146 of the others hold 1503
    # values of 1512, so that one more is needed, which may hold 9.
    compressor = create("nsi", layer_rule="uniform", warmup_steps=0, density=1512 / (400 * 189))
    head, tiles, values = 12 + (3 + 4 * 2 + 1) + 3 + 5 + 2, 63 + 146 + 1, 1512 + 8
    assert compressor.size_bound([torch.randn(400, 189)]) == head + 2 * tiles + 4 * values


def kept(own: Tensor) -> int:
    return int(own.count_nonzero())


def test_densities_follow_the_importance_of_the_steps_before() -> None:
    compressor = nsi((30, 30), (30, 30), density=0.1, neighbourhood=1, smoothing=0.75)
    signs = torch.where(torch.arange(900).view(30, 30) % 2 == 0, 1.0, -1.0)  # NSI of an entry: its magnitude
    assert [kept(own) for own in run(compressor, 3 * signs, signs, step=0)] == [90, 90]  # nothing known yet
    assert [kept(own) for own in run(compressor, signs, 2 * signs, step=1)] == [135, 45]  # 3 : 1
    # S = 0.75 * 3 + 0.25 * 1 = 2.5 and 0.75 * 1 + 0.25 * 2 = 1.25
    assert [kept(own) for own in run(compressor, signs, signs, step=2)] == [120, 60]


def test_a_layers_importance_is_the_mean_nsi_of_its_tiles() -> None:
    compressor = nsi((4, 4), neighbourhood=2)
    run(compressor, M, step=0)
    run(compressor, M, step=1)
    assert method(compressor).importance["w0"] == pytest.approx((1 + 1 + math.sqrt(3) + 2 + 3) / 4)


def test_uniform_rule_ignores_importance() -> None:
    compressor = nsi((30, 30), (30, 30), density=0.1, neighbourhood=1, layer_rule="uniform")
    for step in range(3):
        own = run(compressor, torch.full((30, 30), 9.0), torch.ones(30, 30), step=step)
        assert [kept(o) for o in own] == [90, 90]


def test_warm_up() -> None:
    compressor = nsi((50, 50), density=0.02, neighbourhood=1, warmup_steps=4)
    counts = [kept(run(compressor, torch.randn(50, 50), step=step)[0]) for step in range(5)]
    assert counts == [625, 156, 75, 50, 50]


def test_zero_gradients_keep_the_densities_defined() -> None:
    compressor = nsi((40, 40), (40, 40))
    for step in range(3):
        for own in run(compressor, torch.zeros(40, 40), torch.zeros(40, 40), step=step):
            assert not own.any()
    assert set(method(compressor).densities(StepContext()).values()) == {0.02}


def test_importance_of_the_largest_gradients_stays_finite() -> None:
    compressor = nsi((40, 40), (40, 40))
    for step in range(3):
        run(compressor, torch.full((40, 40), 3e38), torch.full((40, 40), 1e-38), step=step)
    assert all(math.isfinite(density) for density in method(compressor).densities(StepContext()).values())


@pytest.mark.parametrize("shape", [(400, 189), (400, 400), (50, 401), (80, 70, 3, 3)])
def test_the_bound_is_near_the_payload_also_where_border_tiles_are_small(shape: tuple[int, ...]) -> None:
    compressor = nsi(shape, layer_rule="uniform")
    bound = compressor.size_bound([torch.zeros(shape)])
    assert bound / 1.2 <= len(compressor.encode([torch.randn(shape)])) <= bound


def test_the_bound_holds_where_the_tiles_at_the_border_are_the_largest_indicators() -> None:
    gradient = torch.zeros(400, 400)
    gradient[399, :] = gradient[:, 399] = 1 + torch.rand(400)
    compressor = nsi((400, 400), layer_rule="uniform", density=0.004)
    bound = compressor.size_bound([gradient])
    payload = compressor.encode([gradient])
    assert payload.kept == 640  # of 799 in tiles of three, and of one
    assert len(payload) <= bound
