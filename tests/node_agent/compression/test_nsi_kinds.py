from __future__ import annotations

from math import sqrt
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import exchange
from methods import make, plain, said
from numpy.typing import NDArray
from torch import Tensor

from node_agent.compression import configure, create
from node_agent.compression.base import Layer, StepContext
from node_agent.compression.compressor import Compressor
from node_agent.compression.density import SHARES, common_threshold, relative_change, sample
from node_agent.compression.indicators import INDICATORS, Scored, score
from node_agent.compression.neighbourhoods import consecutive
from node_agent.compression.settings import NSISettings
from node_agent.compression.tiles import Tiling
from node_agent.compression.views import kernel_matrix

KINDS = list(INDICATORS)
WINDOWS = [kind for kind, indicator in INDICATORS.items() if not indicator.tiled]
RULES = ["uniform", "proportional", "relative_change", "global_threshold"]
SHAPES = {"a": (40, 30), "b": (16, 8, 3, 3), "c": (33, 35)}
Matrix = NDArray[Any]


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scales = dict(zip(SHAPES, (1.0, 0.3, 4.0), strict=True))
    return {name: torch.randn(shape, generator=generator) * scales[name] for name, shape in SHAPES.items()}


def scored(kind: str, matrix: Matrix, p: int = 3, weights: tuple[float, float] = (1.0, 1.0)) -> Scored:
    side = 1 if kind == "abs" or not INDICATORS[kind].tiled else p
    tiling = Tiling.of(matrix.shape, side, "rows")
    return score(kind, torch.from_numpy(matrix), tiling, p, weights, torch.empty(tiling.tiles + 3))


def by_loops(kind: str, m: Matrix, p: int, a: float = 1.0, b: float = 1.0) -> Matrix:
    """The table of indicators, entry by entry or tile by tile, in float64."""
    m = m.astype(np.float64)
    rows, columns = m.shape
    if kind.startswith("tile"):
        tiles = [m[i : i + p, j : j + p] for i in range(0, rows, p) for j in range(0, columns, p)]
        signed = kind == "tile_absmean_std"
        return np.array(
            [a * abs(t.mean()) + b * t.std() if signed else a * abs(t).mean() + b * abs(t).std() for t in tiles]
        )
    h = p // 2
    windows = [m[max(0, i - h) : i + h + 1, max(0, j - h) : j + h + 1] for i in range(rows) for j in range(columns)]
    x = m.ravel()
    mean, sd = np.array([w.mean() for w in windows]), np.array([w.std() for w in windows])
    of_size, sd_of_size = np.array([abs(w).mean() for w in windows]), np.array([abs(w).std() for w in windows])
    eps = 1e-3 * (sd if kind == "zscore" else sd_of_size).mean() + 1e-12
    found: Matrix = {
        "zscore": abs(x - mean) / (sd + eps),
        "mag_x_stat": abs(x) * (a * of_size + b * sd_of_size),
        "contrast": abs(x) / (a * of_size + b * sd_of_size + eps),
        "std": sd,
        "absmean_plus_std": a * abs(mean) + b * sd,
        "mean_plus_std": a * of_size + b * sd_of_size,
        "snr": of_size / (sd_of_size + eps),
        "abs": abs(x),
    }[kind]
    return found


def random_matrix(rows: int, columns: int, seed: int, flat: bool) -> Matrix:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-1, 2, (rows, columns)) if flat else rng.standard_normal((rows, columns))
    return drawn.astype(np.float32)


matrices = st.builds(random_matrix, st.integers(1, 11), st.integers(1, 11), st.integers(0, 2**32 - 1), st.booleans())
halves = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@pytest.mark.parametrize("kind", KINDS)
@given(matrix=matrices, p=st.sampled_from([1, 3, 5, 7]), a=halves, b=halves)
@settings(max_examples=25)
def test_indicators_are_their_formulas(kind: str, matrix: Matrix, p: int, a: float, b: float) -> None:
    found = scored(kind, matrix, p, (a, b))
    expected = by_loops(kind, matrix, p, a, b)
    if INDICATORS[kind].tiled:  # in float32 a difference of squares has the square root of its rounding error
        np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=4e-3)
    elif kind == "zscore":  # where a window is flat its mean has a rounding error, and sd + eps may be 1e-12
        np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-3)
    else:
        np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-6)
    assert found.scale == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_indicator_of_a_lone_entry_by_hand(kind: str) -> None:
    m = np.zeros((3, 3), np.float32)
    m[1, 1] = -9
    corner, edge, centre = (9 / 4, 9 * sqrt(3) / 4), (1.5, sqrt(11.25)), (1.0, sqrt(8))  # mean and deviation of |M|
    eps = 1e-3 * (4 * corner[1] + 4 * edge[1] + centre[1]) / 9 + 1e-12
    of_three = {  # at a corner, an edge, the centre
        "zscore": [corner[0] / (corner[1] + eps), edge[0] / (edge[1] + eps), 8 / (centre[1] + eps)],
        "mag_x_stat": [0, 0, 9 * sum(centre)],
        "contrast": [0, 0, 9 / (sum(centre) + eps)],
        "std": [corner[1], edge[1], centre[1]],
        "absmean_plus_std": [sum(corner), sum(edge), sum(centre)],
        "mean_plus_std": [sum(corner), sum(edge), sum(centre)],
        "snr": [mean / (sd + eps) for mean, sd in (corner, edge, centre)],
        "abs": [0, 0, 9],
    }
    scores = scored(kind, m).scores
    expected = [sum(centre)] if kind.startswith("tile") else np.array(of_three[kind])[[0, 1, 0, 1, 2, 1, 0, 1, 0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-25, 1e25, 3e38])
@pytest.mark.parametrize("kind", KINDS)
def test_indicators_of_entries_at_the_ends_of_float32(kind: str, magnitude: float) -> None:
    small = np.random.default_rng(3).uniform(-1, 1, (7, 9))
    matrix = (small * magnitude).astype(np.float32)
    found, expected = scored(kind, matrix), by_loops(kind, matrix, 3)
    assert found.scores.isfinite().all()
    largest = expected.max() * found.scale
    np.testing.assert_allclose(found.scores, expected * found.scale, rtol=1e-4, atol=2e-3 * largest)
    if INDICATORS[kind].degree:
        assert found.importance == pytest.approx(expected.mean(), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_many_rows_are_those_of_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(1).standard_normal((50, 23)).astype(np.float32)
    whole = scored(kind, matrix, 5)
    monkeypatch.setattr("node_agent.compression.neighbourhoods.CHUNK", 300)
    parts = scored(kind, matrix, 5)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-6, atol=0)
    assert parts.importance == pytest.approx(whole.importance)


@given(st.integers(1, 20), st.integers(1, 12))
def test_consecutive_sums(length: int, count: int) -> None:
    x = torch.arange(2 * (length + count)).view(2, -1).double() ** 2
    assert torch.equal(consecutive(x, count, 1), x.unfold(1, count, 1).sum(-1))


@pytest.mark.parametrize("kind", ["zscore", "contrast", "snr"])
def test_importance_of_scale_free_kinds_has_the_gradients_size(kind: str) -> None:
    matrix = np.random.default_rng(2).standard_normal((9, 9)).astype(np.float32)
    stand_in = "absmean_plus_std" if kind == "zscore" else "mean_plus_std"
    assert scored(kind, matrix).importance == pytest.approx(by_loops(stand_in, matrix, 3).mean(), rel=1e-5)


@pytest.mark.parametrize("view", ["kernels", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_of_a_convolution(kind: str, view: str) -> None:
    shape, density = (5, 7, 3, 3), 0.1
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    own = said(plain("nsi", {"w": shape}, kind=kind, view=view, density=density, warmup_steps=0), {"w": gradient})["w"]
    as_matrix = kernel_matrix if view == "kernels" and kind != "abs" else lambda layer: layer.flatten(1)
    matrix, sent = as_matrix(gradient).numpy(), as_matrix(own).numpy()
    scores = by_loops(kind, matrix, 3)
    if kind.startswith("tile"):
        tiles = [sent[i : i + 3, j : j + 3] for i in range(0, len(sent), 3) for j in range(0, sent.shape[1], 3)]
        chosen = np.array([tile.any() for tile in tiles])
        sizes = np.array([tile.size for tile in tiles])
        least = sizes[chosen].min() if view == "rows" else 9
        assert 31 <= sizes[chosen].sum() < round(density * 315) + max(9, least)
    else:
        chosen = sent.ravel() != 0
        assert chosen.sum() == round(density * 315)
    assert scores[chosen].min() >= scores[~chosen].max() - 1e-5
    assert np.array_equal(sent[sent != 0], matrix[sent != 0])


@pytest.mark.parametrize("kind", KINDS)
def test_all_nodes_hold_the_same_mean(kind: str) -> None:
    nodes = [make("nsi", SHAPES, kind=kind, density=0.05, warmup_steps=2) for _ in range(3)]
    for step in range(4):
        outcomes, _ = exchange(nodes, [draw(10 * step + k) for k in range(3)], step)
        for place in range(len(SHAPES)):
            parts = torch.stack([outcome.said[place].decoded() for outcome in outcomes])
            torch.testing.assert_close(outcomes[0].mean[place], parts.mean(0))
            assert all(torch.equal(outcome.mean[place], outcomes[0].mean[place]) for outcome in outcomes)


@pytest.mark.parametrize("magnitude", [1e-44, 1.0, 1e38])
@pytest.mark.parametrize("kind", KINDS)
def test_said_and_residual_are_the_accumulated_gradient(kind: str, magnitude: float) -> None:
    gradient = torch.rand(33, 35, generator=torch.Generator().manual_seed(1)) * magnitude
    compressor = create("nsi", kind=kind, density=0.1, warmup_steps=0)
    kept = torch.zeros(33, 35)
    for _ in range(3):
        payload = compressor.encode([gradient])
        (own,) = compressor.decode(payload)
        residual = compressor.state_dict()["method"]["residual"]["0"]
        assert torch.equal(own + residual, gradient + kept)
        assert not torch.any((own != 0) & (residual != 0))
        assert payload.kept >= round(0.1 * 33 * 35)
        kept = residual


# The densities of layers


def counts(compressor: Compressor, *gradients: Tensor, step: int) -> list[int]:
    (outcome,), _ = exchange([compressor], [{f"w{i}": g for i, g in enumerate(gradients)}], step)
    return [one.values for one in outcome.said]


def entries(rule: str, layers: int = 2, **values: Any) -> Compressor:
    shapes = {f"w{i}": (30, 30) for i in range(layers)}
    return plain("nsi", shapes, **({"kind": "abs", "density": 0.1, "warmup_steps": 0} | values), layer_rule=rule)


def test_relative_change_by_hand() -> None:
    compressor, ones = entries("relative_change", 3, smoothing=0.5), torch.ones(30, 30)
    assert counts(compressor, ones, ones, ones, step=0) == [90, 90, 90]
    assert counts(compressor, 3 * ones, ones / 9, 9 * ones, step=1) == [90, 90, 90]  # S(t0) = 1
    # S = (1 + 3) / 2, (1 + 1 / 9) / 2, (1 + 9) / 2, of which at most four times the density
    assert counts(compressor, ones, ones, ones, step=2) == [180, 50, 360]


def test_relative_change_counts_from_the_end_of_warm_up() -> None:
    compressor, ones = entries("relative_change", smoothing=0.0, warmup_steps=4), torch.ones(30, 30)
    dense = [counts(compressor, (step + 1) * ones, ones, step=step) for step in range(4)]
    assert dense == [[225, 225], [90, 90], [90, 90], [90, 90]]
    assert counts(compressor, 8 * ones, ones, step=4) == [90, 90]  # S(t0) = 4
    assert counts(compressor, ones, ones, step=5) == [180, 90]


def test_relative_change_of_a_layer_that_was_zero() -> None:
    assert relative_change(0.1, [1.0, 2.0], [0.0, 1.0]).tolist() == [0.1, 0.2]


@pytest.mark.parametrize(("density", "rates"), [(0.25, [0.5, 0]), (0.5, [1, 0]), (0.75, [1, 0.5]), (1.0, [1, 1])])
def test_one_threshold_by_hand(density: float, rates: list[float]) -> None:
    two, one = np.full(1024, 2.0), np.full(1024, 1.0)
    assert common_threshold(density, [two, one], [900, 900]).tolist() == pytest.approx(rates)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.sampled_from([0.001, 0.02, 0.3]))
@settings(max_examples=20)
def test_one_threshold_keeps_the_budget(sizes_of_gradients: list[float], density: float) -> None:
    rng = np.random.default_rng(0)
    scores = [(size * rng.exponential(size=5000)).astype(np.float32) for size in sizes_of_gradients]
    rates = common_threshold(density, [sample(one) for one in scores], [5000] * len(scores))
    assert rates.mean() == pytest.approx(density)
    together = np.sort(np.concatenate(scores))[::-1]
    threshold = together[round(density * len(together))]
    for one, rate in zip(scores, rates, strict=True):
        # Shares are 1.4 % apart, and one of the layers makes up for what the others are short of.
        assert rate == pytest.approx((one > threshold).mean(), rel=0.05, abs=0.015 * rates.sum())


def test_samples_are_order_statistics() -> None:
    scores = np.random.default_rng(0).permutation(2**20).astype(np.float32)
    reached = sample(scores, most=2**20)
    assert np.array_equal(reached, 2**20 - np.ceil(SHARES * 2**20))


def test_global_threshold_by_hand() -> None:
    ramp = torch.arange(1, 901).view(30, 30) / 900
    compressor = entries("global_threshold", density=0.5)
    assert counts(compressor, ramp, 2 * ramp, step=0) == [450, 450]
    # (1 - x) + (1 - x / 2) = 1 at x = 2 / 3: of the first a third is beyond it, of the second two
    assert counts(compressor, ramp, ramp, step=1) == pytest.approx([300, 600], abs=8)
    assert counts(compressor, ramp, ramp, step=2) == pytest.approx([450, 450], abs=8)


def test_global_threshold_over_each_layers_rms_is_uniform_for_alike_layers() -> None:
    ramp = torch.arange(1, 901).view(30, 30) / 900
    compressor = entries("global_threshold", density=0.5, rms_power=1.0)
    for step in range(2):
        assert counts(compressor, ramp, 1e30 * ramp, step=step) == pytest.approx([450, 450], abs=8)


@pytest.mark.parametrize("kind", ["tile_mean_std", "mag_x_stat", "zscore"])
@pytest.mark.parametrize("rule", RULES)
def test_groups_make_no_difference_and_runs_resume(rule: str, kind: str) -> None:
    values = {"layer_rule": rule, "kind": kind, "density": 0.05, "warmup_steps": 2, "momentum_correction": 0.5}
    whole, parted, later = (create("nsi", [Layer(n, s) for n, s in SHAPES.items()], **values) for _ in range(3))
    for step in range(6):
        gradients = {name: g * (1 + step * (name == "c")) for name, g in draw(step).items()}
        if step == 3:
            later.load_state_dict(whole.state_dict())
        (together,), _ = exchange([whole], [gradients], step)
        expected = dict(zip(SHAPES, together.mean, strict=True))
        for group in (["c"], ["b", "a"]):
            (outcome,), _ = exchange([parted], [{name: gradients[name] for name in group}], step)
            assert all(torch.equal(expected[n], mean) for n, mean in zip(group, outcome.mean, strict=True))
        if step >= 3:
            (outcome,), _ = exchange([later], [gradients], step)
            assert all(map(torch.equal, outcome.mean, together.mean))


@pytest.mark.parametrize("rule", RULES)
def test_sizes_are_bounded_whatever_the_rule(rule: str) -> None:
    compressor = create("nsi", layer_rule=rule, density=0.05, warmup_steps=0, smoothing=0.0)
    for step in range(4):
        gradients = [g * 10.0 ** (step * place) for place, g in enumerate(draw(step).values())]
        bound = compressor.size_bound(gradients)
        assert len(compressor.encode(gradients)) <= bound


# The same as DGC


def dgc_by_hand(gradients: list[Tensor], density: float, m: float, nesterov: bool, clip: float | None) -> list[Tensor]:
    """What Deep Gradient Compression sends in every step, by its algorithms 1 and 2."""
    u, v, sent = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0]), []
    for g in gradients:
        if clip is not None:
            g = g * min(1.0, clip / float(g.double().norm()))
        u = m * (u + g) if nesterov else m * u + g
        v = v + u + g if nesterov else v + u
        mask = torch.zeros_like(v, dtype=torch.bool).view(-1)
        mask[v.abs().view(-1).topk(max(1, round(density * v.numel()))).indices] = True
        mask = mask.view(v.shape)
        sent.append(torch.where(mask, v, 0))
        u, v = u.masked_fill(mask, 0), v.masked_fill(mask, 0)
    return sent


@pytest.mark.parametrize(
    ("m", "nesterov", "clip"), [(0.9, False, None), (0.9, True, None), (0.9, False, 5.0), (0.0, False, 5.0)]
)
def test_magnitudes_with_momentum_correction_are_dgc(m: float, nesterov: bool, clip: float | None) -> None:
    shared = {"density": 0.02, "warmup_steps": 0, "momentum_correction": m, "nesterov": nesterov, "clip": clip}
    compressor, published = create("nsi", kind="abs", layer_rule="uniform", **shared), create("dgc", **shared)
    gradients = [draw(step)["c"] for step in range(8)]
    for gradient, expected in zip(gradients, dgc_by_hand(gradients, 0.02, m, nesterov, clip), strict=True):
        (own,) = compressor.decode(compressor.encode([gradient]))
        assert torch.equal(own != 0, expected != 0)
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=0)
        assert torch.equal(own, published.decode(published.encode([gradient]))[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "std", "neighbourhood": 4}, "neighbourhood: found 4; allowed 1, 3, …, 63 with kind: std"),
        ({"kind": "zscore", "neighbourhood": 1}, "neighbourhood: found 1; allowed 3, 5, …, 63 with kind: zscore"),
        ({"kind": "std", "weights": [2, 1]}, r"weights: found \[2, 1\]; allowed \[1, 1\] with kind: std"),
        ({"weights": [0, 0]}, "not both 0"),
        ({"weights": [-1, 1]}, "two numbers of 0 to 1000"),
        ({"rms_power": 0.5}, "with layer_rule: global_threshold"),
        ({"momentum_correction": 0.9, "error_feedback": False}, "without error_feedback: true"),
        ({"clip": 1.0, "error_feedback": False}, "without error_feedback: true"),
        ({"nesterov": True}, "with a momentum_correction above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure("nsi", **values)


def test_tiles_may_have_an_even_side() -> None:
    assert configure("nsi", neighbourhood=4, weights=[1, 0.5]).model_dump()["weights"] == (1, 0.5)


def test_a_step_takes_the_densities_of_its_own_warm_up() -> None:
    compressor = make("nsi", {"w": (50, 50)}, kind="std", warmup_steps=4)
    assert [counts_of(compressor, step) for step in range(5)] == [625, 156, 75, 50, 50]


def counts_of(compressor: Compressor, step: int) -> int:
    context = StepContext(step=step)
    (outcome,), _ = exchange([compressor], [{"w": torch.randn(50, 50)}], context.step)
    return outcome.said[0].values


def test_settings_know_the_indicators() -> None:
    assert set(NSISettings.WINDOWS) == set(WINDOWS)
    assert get_args(NSISettings.model_fields["kind"].annotation) == tuple(KINDS)


@pytest.mark.parametrize("value", [0.1, 0.7, 1e-12, 3e12])
@pytest.mark.parametrize("side", [2, 3, 7, 63])
def test_tiles_of_equal_entries_have_no_deviation(side: int, value: float) -> None:
    matrix = np.full((130, 131), value, np.float32)
    for kind in ("tile_mean_std", "tile_absmean_std"):
        found = scored(kind, matrix, side, (0.0, 1.0))
        assert not found.scores.any()
