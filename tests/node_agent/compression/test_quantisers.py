"""Signs and levels: signSGD, EF-signSGD, 1-bit SGD, QSGD, TernGrad."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import exchange
from torch import Tensor

from node_agent.compression import create
from node_agent.compression.base import Coder, Layer, StepContext, alone
from node_agent.compression.build import METHODS
from node_agent.compression.settings import CATALOGUE
from node_agent.compression.values import Levels, Signs

QUANTISERS = ["signsgd", "efsignsgd", "onebit", "qsgd", "terngrad"]
LAYERS = [Layer("w", (40, 37)), Layer("kernel", (16, 8, 3, 3)), Layer("bias", (40,))]
LARGEST = float(np.finfo(np.float32).max)
GRADIENTS = st.lists(
    st.floats(width=32, min_value=-LARGEST, max_value=LARGEST), min_size=1, max_size=40
) | st.sampled_from([[0.0], [-0.0, 0.0], [1e-45, -1e-45, 3e-42], [3e38, -3e38, 3e38], [5.0], [-2.0, -2.0]])


def make(name: str, shape: tuple[int, ...], **values: Any) -> Coder:
    """The method alone, of one layer called w."""
    coder: Coder = METHODS[name](CATALOGUE[name](**values), [Layer("w", shape)])
    return coder


def said(method: Coder, gradient: Tensor, step: int = 0, rank: int = 0) -> Tensor:
    (coded,), _ = alone(method.compress(["w"], [gradient], StepContext(1, step, rank)))
    return coded.decoded()


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.randn(layer.shape, generator=generator) for layer in LAYERS}


def reference(name: str, a: list[float]) -> list[float]:
    if name == "signsgd":
        return [1.0 if v >= 0 else -1.0 for v in a]
    if name == "efsignsgd":
        scale = sum(map(abs, a)) / len(a)
        return [scale if v >= 0 else -scale for v in a]
    above, below = [v for v in a if v >= 0], [v for v in a if v < 0]
    return [sum(above) / len(above) if v >= 0 else sum(below) / len(below) for v in a]


@pytest.mark.parametrize("name", ["signsgd", "efsignsgd", "onebit"])
@settings(max_examples=25, deadline=None)
@given(a=GRADIENTS)
def test_signs_are_as_their_definitions_have_them(name: str, a: list[float]) -> None:
    gradient = torch.tensor(a)
    found = said(make(name, (len(a),)), gradient)
    torch.testing.assert_close(found, torch.tensor(reference(name, a), dtype=torch.float64).float(), rtol=1e-6, atol=0)


def test_two_means_by_hand() -> None:
    # a published implementation makes 507 and 510 of this
    assert said(make("onebit", (4,)), torch.tensor([-1.0, -3.0, 2.0, 0.0])).tolist() == [-2, -2, 1, 1]


@settings(max_examples=25, deadline=None)
@given(a=GRADIENTS, levels=st.sampled_from([1, 4, 127]), bucket=st.sampled_from([0, 1, 3, 512]))
def test_qsgd_rounds_to_a_level_next_to_each_entry(a: list[float], levels: int, bucket: int) -> None:
    found = said(make("qsgd", (len(a),), levels=levels, bucket=bucket), torch.tensor(a)).double().numpy()
    for start in range(0, len(a), bucket or len(a)):
        v = np.array(a[start : start + (bucket or len(a))])
        norm = min(np.sqrt(np.sum(v * v)), LARGEST)
        # A level of a denormal norm is itself rounded to a multiple of the least.
        assert np.all(np.abs(found[start : start + len(v)] - v) <= norm / levels * (1 + 1e-5) + 1e-45)
        if norm > 1e-30:
            in_levels = found[start : start + len(v)] / norm * levels
            np.testing.assert_allclose(in_levels, np.round(in_levels), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(a=GRADIENTS, clip=st.sampled_from([None, 0.5, 2.5]))
def test_terngrad_is_ternary_and_keeps_signs(a: list[float], clip: float | None) -> None:
    found = said(make("terngrad", (len(a),), clip=clip), torch.tensor(a)).numpy()
    v = np.array(a)
    largest = np.abs(v).max()
    if clip is not None:
        largest = min(largest, clip * np.sqrt(np.mean(v * v)))
    for value, entry in zip(found, a, strict=True):
        assert value == 0 or (value > 0) == (entry > 0)
        assert value == 0 or abs(value) == pytest.approx(largest, rel=1e-6, abs=1e-45)


def test_terngrad_clips_at_deviations() -> None:
    a = torch.cat([torch.ones(99), torch.tensor([-100.0])])  # sigma = sqrt(10099 / 100) = 10.05
    assert said(make("terngrad", (100,)), a).min() == pytest.approx(-2.5 * np.sqrt(100.99))
    assert said(make("terngrad", (100,), clip=None), a).min() == -100
    assert torch.equal(said(make("terngrad", (3,)), torch.full((3,), 7.0)), torch.full((3,), 7.0))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("qsgd", {}),
        ("qsgd", {"levels": 127, "bucket": 0}),
        ("qsgd", {"levels": 1, "bucket": 25}),
        ("terngrad", {"clip": None}),
    ],
)
def test_the_expectation_is_the_gradient(name: str, values: dict[str, Any]) -> None:
    gradient = torch.randn(50, generator=torch.Generator().manual_seed(3))
    draws = said(make(name, (50 * 4000,), **values), gradient.repeat(4000)).view(4000, 50).double()
    error = draws.std(0) / np.sqrt(len(draws))
    assert torch.all((draws.mean(0) - gradient).abs() <= 5 * error)
    assert error.max() > 0


@pytest.mark.parametrize("name", ["qsgd", "terngrad"])
def test_steps_layers_and_nodes_draw_apart_and_a_step_draws_the_same_again(name: str) -> None:
    gradient = torch.ones(2000).index_fill_(0, torch.tensor([0]), 2.0)
    method = make(name, (2000,), **({"levels": 1} if name == "qsgd" else {}))
    first = said(method, gradient)
    assert torch.equal(first, said(method, gradient))
    assert not torch.equal(first, said(method, gradient, step=1))
    assert not torch.equal(first, said(method, gradient, rank=1))


@pytest.mark.parametrize("ties", [False, True])
def test_the_majority_decides(ties: bool) -> None:
    nodes = 4 if ties else 3
    layers = [Layer("w", (6,))]
    compressors = [create("signsgd", layers) for _ in range(nodes)]
    rows = [[3.0, -1, -1, 0, -0.0, 5], [0.1, -9, 1e-45, -1, -1, -5], [-7.0, 2, 1, -1, -1, 0], [-1.0, 1, 1, -1, 1, -1]]
    outcomes, _ = exchange(compressors, [{"w": torch.tensor(row)} for row in rows[:nodes]])
    expected = [0.0, 0, 1, -1, 0, 0] if ties else [1.0, -1, 1, -1, -1, 1]
    for outcome in outcomes:
        assert outcome.mean[0].tolist() == expected


def test_signum_says_the_sign_of_a_moving_average() -> None:
    method = make("signsgd", (3,), momentum=0.9)
    average = np.zeros(3)
    for step, row in enumerate([[1.0, -1, 0.5], [-0.5, -1, -3], [-0.5, 20, 1], [-0.5, 0, 1]]):
        average = 0.9 * average + 0.1 * np.array(row)
        assert said(method, torch.tensor(row), step).tolist() == np.where(average >= 0, 1.0, -1.0).tolist()
    assert average[0] < 0  # it turned on the way


def test_every_tensor_of_a_model_votes() -> None:
    # Beside signs of magnitude 1, means of small tensors would hardly count.
    outcomes, _ = exchange([create("signsgd", LAYERS)], [draw(0)])
    assert all(torch.equal(mean.abs(), torch.ones_like(mean)) for mean in outcomes[0].mean)


@pytest.mark.parametrize("name", ["efsignsgd", "onebit", "qsgd", "terngrad"])
def test_means_are_of_what_the_nodes_said(name: str) -> None:
    outcomes, _ = exchange([create(name, LAYERS) for _ in range(3)], [draw(k) for k in range(3)])
    for place, mean in enumerate(outcomes[0].mean):
        parts = torch.stack([outcome.said[place].decoded() for outcome in outcomes])
        torch.testing.assert_close(mean, parts.mean(0))


@pytest.mark.parametrize("name", ["efsignsgd", "onebit", "qsgd", "terngrad"])
def test_said_and_residual_are_what_was_accumulated(name: str) -> None:
    compressor = create(name, [Layer("w", (64, 32))], error_feedback=True)
    total, told = torch.zeros(64, 32), torch.zeros(64, 32)
    for step in range(5):
        gradient = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
        total += gradient
        (outcome,), _ = exchange([compressor], [{"w": gradient}], step)
        told += outcome.mean[0]
    residual = compressor.state_dict()["method"]["residual"]["w"]
    torch.testing.assert_close(told + residual, total, rtol=1e-5, atol=1e-4)
    assert residual.abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "values", "bits", "head"),
    [
        ("signsgd", {}, 1, 0),
        ("efsignsgd", {}, 1, 0),
        ("onebit", {}, 1, 0),
        ("terngrad", {}, 1.6, 4),
        ("qsgd", {"levels": 1, "bucket": 0}, 1.6, 4),
        ("qsgd", {"levels": 7, "bucket": 500}, 4, 4 * 20),
        ("qsgd", {"bucket": 500}, 8, 4 * 20),
    ],
)
def test_bits_on_the_wire(name: str, values: dict[str, Any], bits: float, head: int) -> None:
    layer = Layer("w", (100, 100))
    compressor = create(name, [layer], **values)
    payload = compressor.encode([torch.randn(layer.shape, generator=torch.Generator().manual_seed(0))])
    coding = 1 + (8 if name in ("signsgd", "efsignsgd", "onebit") else 6)
    assert len(payload) == 12 + 3 + 2 * 4 + 1 + coding + head + bits * layer.numel / 8
    assert len(payload) == compressor.size_bound([torch.zeros(layer.shape)])


def test_settings_are_what_is_coded() -> None:
    assert make("qsgd", (8,), levels=9, bucket=3).coding(Layer("w", (8,)), torch.zeros(8), StepContext()) == Levels(
        9, 3, "l2", True
    )
    assert make("signsgd", (8,)).coding(Layer("w", (8,)), torch.zeros(8), StepContext()) == Signs(-1, 1)
    for name, values in [("qsgd", {"levels": 128}), ("qsgd", {"bucket": -1}), ("terngrad", {"clip": 0})]:
        with pytest.raises(ValueError, match=f"compressor {name}: {next(iter(values))}"):
            create(name, **values)
    with pytest.raises(ValueError, match="compressor signsgd: error_feedback"):
        create("signsgd", error_feedback=True)
