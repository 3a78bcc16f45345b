from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import exchange
from numpy.typing import NDArray
from torch import Tensor

from node_agent.compression import create
from node_agent.compression.base import GradientError, Layer
from node_agent.compression.basis import Rows
from node_agent.compression.compressor import Compressor
from node_agent.compression.octets import PayloadError
from node_agent.compression.replaceability import SELECTORS, fpgm, geometric_median, replaceability, weiszfeld

SHAPES = {"a": (41, 30), "b": (16, 8, 3, 3), "c": (33, 35), "bias": (41,)}
FILLS = ["zero", "mean_dropped", "centroid"]
ALL_SELECTORS = [*SELECTORS, "random"]
Matrix = NDArray[np.float64]


def nodes(count: int, **values: Any) -> list[Compressor]:
    layers = [Layer(name, shape) for name, shape in SHAPES.items()]
    return [create("gcc", layers, **values) for _ in range(count)]


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def kept_of(outcome: Any) -> dict[str, list[int]]:
    return {one.layer.name: one.basis.kept.tolist() for one in outcome.said if isinstance(one.basis, Rows)}


def by_loops(selector: str, a: Matrix) -> Matrix:
    m = len(a)
    if selector == "norm":
        return np.array([np.linalg.norm(row) for row in a])
    if selector == "fpgm":
        return np.array([sum(np.linalg.norm(a[i] - a[j]) for j in range(m)) for i in range(m)])
    c = a.mean(0)
    for _ in range(10 if selector == "geometric_median" else 0):
        # The median minimises the sum of distances smoothed by a width that is far below any of them.
        weights = [1 / np.sqrt(((row - c) ** 2).sum() + 1e-30) for row in a]
        c = sum(w * row for w, row in zip(weights, a, strict=True)) / sum(weights)
    return np.array([np.linalg.norm(row - c) for row in a])


matrices = st.builds(
    lambda m, n, seed: np.random.default_rng(seed).standard_normal((m, n)).astype(np.float32),
    st.integers(1, 13),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("magnitude", [1e-40, 1e-25, 1.0, 1e25, 1e36])
@given(matrix=matrices)
@settings(max_examples=15)
def test_selectors_are_their_formulas(selector: str, magnitude: float, matrix: NDArray[np.float32]) -> None:
    a = (matrix * np.float32(magnitude)).astype(np.float32)
    expected = by_loops(selector, a.astype(np.float64) / magnitude)
    found = replaceability(selector, torch.from_numpy(a)).double().numpy() / magnitude
    # In a row of few values far from their mean, 1e-4 of what is subtracted stays; denormals have few digits.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4 if magnitude > 1e-38 else 1e-3)


@pytest.mark.parametrize("selector", SELECTORS)
def test_what_exceeds_float32_is_its_largest_number(selector: str) -> None:
    a = torch.cat([torch.full((4, 50), 3e38), torch.full((4, 50), -3e38), torch.zeros(1, 50)])
    d = replaceability(selector, a)
    assert d[:8].tolist() == [torch.finfo(torch.float32).max] * 8
    assert d[8].isfinite()


def test_fpgm_of_equal_rows_is_zero() -> None:
    a = torch.randn(1, 300).expand(600, 300) + 100
    assert not fpgm(a).any()


@given(matrices, st.integers(0, 12))
@settings(max_examples=20)
def test_fpgm_puts_equal_rows_at_distance_zero(matrix: NDArray[np.float32], other: int) -> None:
    a = torch.from_numpy(matrix)
    doubled = torch.cat([a, a[other % len(a)][None]])
    d = fpgm(doubled)
    assert d[-1] == d[other % len(a)]
    torch.testing.assert_close(d[-1], fpgm(a)[other % len(a)], rtol=1e-6, atol=1e-7)


def test_fpgm_of_more_rows_than_a_block() -> None:
    a = torch.randn(300, 7)
    torch.testing.assert_close(fpgm(a), torch.cdist(a.double(), a.double()).sum(1).float())


def test_geometric_median_is_the_middle_of_a_cross() -> None:
    a = torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2], [0, 0]])
    assert geometric_median(a).tolist() == [1, 1, 2, 2, 0]


def test_weiszfeld_stays_on_a_row_that_is_the_median() -> None:
    a = torch.tensor([[0.0, 0], [1, 0], [-1, -0.1], [0, 1]])  # the pulls on (0, 0) add up to less than 1
    assert weiszfeld(a, torch.zeros(2)).tolist() == [0, 0]


def test_weiszfeld_leaves_a_row_that_is_not_the_median() -> None:
    a = torch.tensor([[0.0], [1], [2], [3], [4]])
    # T = (1/1 + 2/2 + 3/3 + 4/4) / (1 + 1/2 + 1/3 + 1/4) = 1.92, r = 4, of which the row itself holds 1
    assert weiszfeld(a, torch.zeros(1)).item() == pytest.approx(1.92 * 3 / 4)


@pytest.mark.parametrize("a", [torch.zeros(9, 4), torch.full((9, 4), 3.0), torch.full((9, 4), 3e38)])
def test_equal_rows_are_no_trouble(a: Tensor) -> None:
    for selector in SELECTORS:
        assert replaceability(selector, a).isfinite().all()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("selector", ALL_SELECTORS)
def test_shared_masks_act_on_the_averaged_gradient(selector: str, fill: str) -> None:
    gradients = [draw(k) for k in range(3)]
    outcomes, sent = exchange(nodes(3, selector=selector, fill=fill, error_feedback=False), gradients)
    assert len(sent) == (1 if selector == "random" else 2)
    kept = kept_of(outcomes[0])
    assert all(kept_of(outcome) == kept for outcome in outcomes)
    for name, mean in zip(SHAPES, outcomes[0].mean, strict=True):
        expected = torch.stack([mine[name] for mine in gradients]).mean(0)
        if name in kept:
            of_filled = torch.ones(len(expected), dtype=torch.bool)
            of_filled[kept[name]] = False
            centre = {"zero": 0.0, "mean_dropped": expected[of_filled].mean(0), "centroid": expected.mean(0)}[fill]
            expected[of_filled] = centre
            assert len(kept[name]) == len(expected) - round(len(expected) / 2)
            if selector != "random":
                total = sum(replaceability(selector, mine[name].flatten(1)) for mine in gradients)
                assert isinstance(total, Tensor)
                assert set(kept[name]) == set(total.topk(len(kept[name])).indices.tolist())
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("selector", ALL_SELECTORS)
@pytest.mark.parametrize("mask", ["scores", "leader", "local"])
def test_all_nodes_hold_the_same_mean(mask: str, selector: str) -> None:
    ring = nodes(3, selector=selector, mask=mask)
    for step in range(3):
        outcomes, _ = exchange(ring, [draw(10 * step + k) for k in range(3)], step)
        for outcome in outcomes[1:]:
            for mine, other in zip(outcome.mean, outcomes[0].mean, strict=True):
                assert torch.equal(mine, other)


def test_leaders_take_turns() -> None:
    ring, alone = nodes(3, mask="leader", error_feedback=False), nodes(1, error_feedback=False)
    for step in range(4):
        gradients = [draw(10 * step + k) for k in range(3)]
        outcomes, sent = exchange(ring, gradients, step)
        leader = step % 3
        assert [one.reduction for one in sent[0]] == ["private"] * 3
        assert [one.nbytes > 0 for one in sent[0]] == [rank == leader for rank in range(3)]
        assert sent[1][0].reduction == "aligned"
        (its_own,), _ = exchange(alone, [gradients[leader]], step)
        assert [kept_of(outcome) for outcome in outcomes] == [kept_of(its_own)] * 3


def test_a_node_alone_is_its_own_leader() -> None:
    gradients = list(draw(3).values())
    payloads = [nodes(1, mask=mask)[0].encode(gradients) for mask in ("leader", "scores", "local")]
    assert bytes(payloads[0]) == bytes(payloads[1]) == bytes(payloads[2])


def test_a_leaders_mask_of_other_rows_is_refused() -> None:
    ring = nodes(2, mask="leader", density=0.5) + nodes(1, mask="leader", density=0.25)
    with pytest.raises(PayloadError, match=r"mask of rank 0: layer a: found 21 rows kept.*; expected 10"):
        exchange(ring, [draw(k) for k in range(3)])


def test_local_masks_are_each_nodes_own() -> None:
    gradients = [draw(k) for k in range(3)]
    outcomes, sent = exchange(nodes(3, mask="local", error_feedback=False), gradients)
    assert {one.reduction for one in sent[-1]} == {"private"}
    said = []
    for outcome, mine in zip(outcomes, gradients, strict=True):
        (its_own,), _ = exchange(nodes(1, error_feedback=False), [mine])
        assert kept_of(outcome) == kept_of(its_own)
        said.append(its_own.mean)
    assert kept_of(outcomes[0]) != kept_of(outcomes[1])
    for mean, *parts in zip(outcomes[0].mean, *said, strict=True):
        torch.testing.assert_close(mean, torch.stack(parts).mean(0))


def test_random_rows_are_others_in_every_step_and_layer() -> None:
    ring = nodes(1, selector="random")
    drawn = [kept_of(exchange(ring, [draw(0)], step)[0][0]) for step in range(4)]
    assert len({tuple(one["a"]) for one in drawn}) == 4
    assert drawn[0]["a"][:15] != drawn[0]["c"][:15]


@pytest.mark.parametrize("mask", ["scores", "leader", "local"])
def test_a_fault_is_told_to_all(mask: str) -> None:
    gradients = [draw(k) for k in range(3)]
    gradients[1]["c"][0, 0] = torch.nan
    with pytest.raises(GradientError, match=r"layer c: 1 of 1155 .* \(rank 1\)"):
        exchange(nodes(3, mask=mask), gradients)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("selector", ALL_SELECTORS)
def test_said_and_residual_are_the_accumulated_gradient(selector: str, fill: str) -> None:
    (compressor,) = nodes(1, selector=selector, fill=fill)
    kept_back = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(3):
        gradients = draw(step)
        bound = compressor.size_bound(list(gradients.values()))
        payload = compressor.encode(list(gradients.values()))
        assert len(payload) <= bound
        said = compressor.decode(bytes(payload))
        state = compressor.state_dict()["method"]["1"]["residual"]
        for name, one in zip(SHAPES, said, strict=True):
            accumulated = gradients[name] + kept_back[name]
            kept_back[name] = state.get(name, torch.zeros(SHAPES[name]))
            torch.testing.assert_close(one + kept_back[name], accumulated, rtol=1e-6, atol=1e-6)


def test_density_one_is_dense_under_every_mask() -> None:
    for mask in ("scores", "leader", "local"):
        gradients = [draw(k) for k in range(2)]
        outcomes, _ = exchange(nodes(2, mask=mask, density=1.0), gradients)
        for name, mean in zip(SHAPES, outcomes[1].mean, strict=True):
            assert torch.equal(mean, (gradients[0][name] + gradients[1][name]) / 2)


def test_a_payload_does_not_change_as_the_residual_does() -> None:
    (compressor,) = nodes(1, density=1.0)
    gradients = draw(5)
    payload = compressor.encode(list(gradients.values()))
    for mine, said in zip(gradients.values(), compressor.decode(payload), strict=True):
        assert torch.equal(mine, said)
