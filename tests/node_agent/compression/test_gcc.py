from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from lockstep import exchange
from methods import make
from torch import Tensor

from node_agent.compression.base import Layer, Round
from node_agent.compression.compressor import Compressor, Exchanged
from node_agent.compression.gcc import GCC, distance_to_centroid

CROSS = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
A = torch.cat([4 * CROSS, CROSS]) + torch.tensor([10.0, 20.0])  # distances 4, 4, 4, 4, 1, 1, 1, 1 from (10, 20)
B = torch.cat([CROSS, 8 * CROSS])  # distances 1, 1, 1, 1, 8, 8, 8, 8 from (0, 0)


def gcc(*shapes: tuple[int, ...], density: float = 0.5) -> Compressor:
    return make("gcc", {f"w{i}": shape for i, shape in enumerate(shapes)}, density=density, error_feedback=False)


def alone(compressor: Compressor, *gradients: Tensor) -> tuple[Exchanged, list[Round]]:
    (outcome,), sent = exchange([compressor], [{f"w{i}": g for i, g in enumerate(gradients)}])
    return outcome, [one for (one,) in sent]


def own(outcome: Exchanged) -> Tensor:
    return outcome.said[0].decoded()


def test_one_node_by_hand() -> None:
    outcome, sent = alone(gcc((8, 2)), A)
    scores, message = sent
    assert scores.data.tolist() == [4, 4, 4, 4, 1, 1, 1, 1]
    assert scores.values == 0
    assert message.data.tolist() == [14, 20, 6, 20, 10, 24, 10, 16, 10, 20]
    assert message.nbytes == 40
    assert message.values == 10
    decoded = torch.cat([A[:4], torch.tensor([[10.0, 20.0]]).expand(4, 2)])
    assert torch.equal(outcome.mean[0], decoded)
    assert torch.equal(own(outcome), decoded)


def test_two_nodes_by_hand() -> None:
    outcomes, _ = exchange([gcc((8, 2)), gcc((8, 2))], [{"w0": A}, {"w0": B}])
    # Scores 5, 5, 5, 5, 9, 9, 9, 9: both keep the last four, and fill the others with (10, 20) and (0, 0).
    expected = torch.cat([torch.tensor([[5.0, 10.0]]).expand(4, 2), (A[4:] + B[4:]) / 2])
    for outcome in outcomes:
        assert torch.equal(outcome.mean[0], expected)
    assert torch.equal(own(outcomes[0])[:4], torch.tensor([[10.0, 20.0]]).expand(4, 2))
    assert torch.equal(own(outcomes[1]), torch.cat([torch.zeros(4, 2), B[4:]]))


def test_distances_are_euclidean() -> None:
    assert distance_to_centroid(torch.tensor([[3.0, 4], [-3, -4], [6, 8], [-6, -8]])).tolist() == [5, 5, 10, 10]


def test_ties_keep_the_lower_rows() -> None:
    outcome, _ = alone(gcc((8, 2)), torch.cat([CROSS, CROSS]))
    assert torch.equal(own(outcome), torch.cat([CROSS, torch.zeros(4, 2)]))


@pytest.mark.parametrize(
    ("m", "density", "kept"),
    [(8, 0.5, 4), (9, 0.5, 5), (10, 0.25, 2), (8, 1.0, 8), (8, 0.01, 1), (189, 0.5, 95)],
)
def test_kept_rows(m: int, density: float, kept: int) -> None:
    outcome, sent = alone(gcc((m, 3), density=density), torch.randn(m, 3))
    assert len(own(outcome).unique(dim=0)) == kept + (kept < m)
    assert sent[-1].values == 3 * (kept + (kept < m))


def test_density_one_has_no_score_round() -> None:
    gradient = torch.randn(9, 5)
    outcome, sent = alone(gcc((9, 5), density=1.0), gradient)
    assert len(sent) == 1
    assert torch.equal(outcome.mean[0], gradient)


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (40, 30)])
def test_result_is_the_same_mask_on_the_averaged_gradient(shape: tuple[int, ...]) -> None:
    gradients = [torch.randn(shape) for _ in range(5)]
    outcomes, sent = exchange([gcc(shape) for _ in gradients], [{"w0": g} for g in gradients])
    scores = sum(payload.data for payload in sent[0])
    assert isinstance(scores, Tensor)
    kept = scores > scores.median()
    average = torch.stack(gradients).mean(0).flatten(1)
    expected = torch.where(kept[:, None], average, average[~kept].mean(0))
    for outcome in outcomes:
        torch.testing.assert_close(outcome.mean[0].flatten(1), expected, rtol=1e-5, atol=1e-6)


def test_bytes_of_the_published_autoencoder() -> None:
    widths = [189, 400, 400, 50, 400, 400, 189]
    shapes = [(m, n) for n, m in pairwise(widths)]
    _, sent = alone(gcc(*shapes), *(torch.randn(s) for s in shapes))
    s1, s2 = 1839, 511_200  # biases, and at once the sums of the layers' m and n; weights
    floats = s2 / 2 + 0.5 * 400 + s1 + s1  # of 189 rows 95 are kept
    assert sum(payload.nbytes for payload in sent) == 4 * floats
    assert (floats + s1) / (s1 + s2) == pytest.approx(0.509, abs=0.002)


def test_takes_matrices_of_eight_rows() -> None:
    assert GCC.takes(Layer("w", (8, 128)))
    assert not GCC.takes(Layer("w", (7, 1000)))
    assert not GCC.takes(Layer("w", (8, 127)))
    assert not GCC.takes(Layer("b", (5000,)))
