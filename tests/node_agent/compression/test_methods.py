"""What holds for every method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from node_agent.compression import create
from node_agent.compression.base import Compressor, GradientError, Layer, StepContext, alone
from node_agent.compression.feedback import ErrorFeedback
from node_agent.compression.fp16 import FP16
from node_agent.compression.gcc import GCC
from node_agent.compression.none import Dense
from node_agent.compression.nsi import NSI
from node_agent.compression.settings import CATALOGUE
from node_agent.compression.topk import TopK

CLASSES: dict[str, Any] = {"none": Dense, "fp16": FP16, "topk": TopK, "gcc": GCC, "nsi": NSI}
SPARSIFIERS = ["topk", "nsi"]
WITH_DENSITY = ["topk", "gcc", "nsi"]
SHAPES = {"a": (40, 30), "b": (16, 8, 3, 3), "c": (33, 35)}
FINITE = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


def make(name: str, shapes: dict[str, tuple[int, ...]] | None = None, **values: Any) -> Compressor:
    """The method without error feedback, on layers of any size."""
    layers = [Layer(layer, shape) for layer, shape in (shapes or SHAPES).items()]
    method: Compressor = CLASSES[name](CATALOGUE[name](**values), layers)
    return method


def draw(seed: int, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in (shapes or SHAPES).items()}


def exchange(method: Compressor, gradients: dict[str, Tensor], step: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    outcome, _ = alone(method.rounds(list(gradients), list(gradients.values()), StepContext(1, step)))
    return outcome.mean, outcome.own


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CATALOGUE)
def test_all_nodes_hold_the_same_mean(lockstep: Any, name: str, nodes: int, feedback: bool) -> None:
    methods = [make(name) for _ in range(nodes)]
    if feedback:
        methods = [ErrorFeedback(method) for method in methods]
    for step in range(4):
        outcomes, sent = lockstep(methods, [draw(100 * step + k) for k in range(nodes)], step)
        assert {payload.reduction for payloads in sent for payload in payloads} == {CATALOGUE[name].reduction}
        for place in range(len(SHAPES)):
            for outcome in outcomes:
                assert torch.equal(outcome.mean[place], outcomes[0].mean[place])
            said = torch.stack([outcome.own[place] for outcome in outcomes])
            # Halves are summed in half precision.
            rounding: dict[str, Any] = {"rtol": nodes / 2048, "atol": nodes / 2048} if name == "fp16" else {}
            torch.testing.assert_close(outcomes[0].mean[place], said.mean(0), **rounding)


@pytest.mark.parametrize("name", ["none", "gcc"])
def test_aligned_methods_act_on_the_averaged_gradient(lockstep: Any, name: str) -> None:
    # Nodes whose gradients are multiples of one another agree on their rows without being asked.
    base = draw(1)
    gradients = [{layer: factor * g for layer, g in base.items()} for factor in (0.5, 1.0, 2.0, 4.5)]
    outcomes, _ = lockstep([make(name) for _ in gradients], gradients)
    mean, _ = exchange(make(name), {layer: 2 * g for layer, g in base.items()})
    for found, expected in zip(outcomes[0].mean, mean, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_density_one_is_dense(lockstep: Any, name: str) -> None:
    gradients = [draw(k) for k in range(3)]
    methods = [ErrorFeedback(make(name, density=1.0)) for _ in gradients]
    dense, _ = lockstep([make("none") for _ in gradients], gradients)
    for step in range(6):
        outcomes, _ = lockstep(methods, gradients, step)
        for found, expected in zip(outcomes[1].mean, dense[1].mean, strict=True):
            assert torch.equal(found, expected)
        assert not any(residual.any() for method in methods for residual in method.residual.values())


matrices = st.builds(
    lambda rows, columns, entries: torch.from_numpy(np.resize(np.array(entries, dtype=np.float32), (rows, columns))),
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(FINITE, min_size=1, max_size=144),
)


@pytest.mark.parametrize("density", [0.05, 0.5])
@pytest.mark.parametrize("name", SPARSIFIERS)
@given(gradient=matrices)
def test_what_is_sent_is_exact(name: str, density: float, gradient: Tensor) -> None:
    wrapped = ErrorFeedback(make(name, {"a": tuple(gradient.shape)}, density=density))
    accumulated = gradient
    for step in range(3):
        _, (own,) = exchange(wrapped, {"a": gradient}, step)
        residual = wrapped.residual["a"]
        assert torch.equal(own + residual, accumulated)
        assert not torch.any((own != 0) & (residual != 0))
        accumulated = gradient + residual


@pytest.mark.parametrize("name", ["gcc", "fp16"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_what_is_sent_is_exact_to_rounding(name: str, seed: int) -> None:
    wrapped = ErrorFeedback(make(name))
    residual = {layer: torch.zeros(shape) for layer, shape in SHAPES.items()}
    for step in range(3):
        gradients = draw(seed + step)
        _, own = exchange(wrapped, gradients, step)
        for layer, said in zip(SHAPES, own, strict=True):
            accumulated = gradients[layer] + residual[layer]
            torch.testing.assert_close(said + wrapped.residual[layer], accumulated, rtol=1e-6, atol=1e-6)
        residual = wrapped.state_dict()["residual"]
    assert any(tensor.any() for tensor in residual.values())


@pytest.mark.parametrize("name", CATALOGUE)
def test_buckets_make_no_difference(lockstep: Any, name: str) -> None:
    values: dict[str, Any] = {"warmup_steps": 2} if name == "nsi" else {}
    whole, parted = ([ErrorFeedback(make(name, **values)) for _ in range(3)] for _ in range(2))
    for step in range(5):
        gradients = [draw(100 * step + k) for k in range(3)]
        for scale, mine in enumerate(gradients):
            mine["c"] *= 1 + 3 * scale  # so that the layers' densities move apart
        together, _ = lockstep(whole, gradients, step)
        expected = dict(zip(SHAPES, together[0].mean, strict=True))
        for group in (["c"], ["b", "a"]):
            outcomes, _ = lockstep(parted, [{layer: mine[layer] for layer in group} for mine in gradients], step)
            for layer, mean in zip(group, outcomes[0].mean, strict=True):
                assert torch.equal(mean, expected[layer])


@pytest.mark.parametrize("name", CATALOGUE)
def test_gradients_are_left_alone_and_may_be_strided(name: str) -> None:
    gradients = draw(3)
    strided = {
        layer: g.flip(0).contiguous().flip(0).transpose(0, 1).contiguous().transpose(0, 1)
        for layer, g in gradients.items()
    }
    assert not any(g.is_contiguous() for g in strided.values())
    mean, own = exchange(ErrorFeedback(make(name)), strided)
    expected_mean, expected_own = exchange(ErrorFeedback(make(name)), gradients)
    for layer, *tensors in zip(SHAPES, mean, expected_mean, own, expected_own, strict=True):
        torch.testing.assert_close(tensors[0], tensors[1])
        torch.testing.assert_close(tensors[2], tensors[3])
        assert torch.equal(strided[layer], draw(3)[layer])


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1), (9, 9)])
def test_zero_and_narrow_gradients(name: str, shape: tuple[int, ...]) -> None:
    for gradient in (torch.zeros(shape), torch.full(shape, 1e-45), torch.randn(shape)):
        wrapped = ErrorFeedback(make(name, {"a": shape}))
        (mean,), (own,) = exchange(wrapped, {"a": gradient})
        assert mean.shape == own.shape == torch.Size(shape)
        torch.testing.assert_close(mean, own)
        torch.testing.assert_close(own + wrapped.residual["a"], gradient)


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_gradient_that_is_not_finite_is_refused_at_once(name: str, value: float, feedback: bool) -> None:
    method = ErrorFeedback(make(name)) if feedback else make(name)
    gradients = draw(0)
    gradients["b"][3, 2, 1, 0] = value
    with pytest.raises(GradientError, match="layer b: 1 of 1152 gradient entries are NaN or infinite"):
        method.rounds(list(gradients), list(gradients.values()), StepContext(1, 0))


@pytest.mark.parametrize("gradient", [torch.zeros(30), torch.zeros(30, 40), torch.zeros(40, 30, dtype=torch.float64)])
def test_a_gradient_that_does_not_fit_its_layer_is_refused(gradient: Tensor) -> None:
    with pytest.raises(GradientError, match=r"layer a: found a gradient of .* expected torch.float32 and \(40, 30\)"):
        ErrorFeedback(make("topk")).rounds(["a"], [gradient], StepContext(1, 0))
    with pytest.raises(GradientError, match="layer z: unknown"):
        ErrorFeedback(make("topk")).rounds(["z"], [gradient], StepContext(1, 0))


@pytest.mark.parametrize("name", SPARSIFIERS)
def test_a_damaged_message_is_traced_to_its_node(name: str) -> None:
    gradients = draw(0)
    rounds = make(name).rounds(list(gradients), list(gradients.values()), StepContext(2, 0))
    payload = next(rounds)
    damaged = payload.data.clone()
    damaged[len(damaged) // 2] ^= 16
    with pytest.raises(ValueError, match="message of rank 1: payload: damaged"):
        rounds.send([payload.data, damaged])


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_run_resumes_from_its_state(lockstep: Any, name: str) -> None:
    layers = [Layer(layer, shape) for layer, shape in SHAPES.items()]
    first, second = (create(name, layers) for _ in range(2))
    for step in range(3):
        exchange(first, draw(step), step)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        expected, _ = exchange(first, draw(step), step)
        found, _ = exchange(second, draw(step), step)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_residuals_of_other_layers_are_refused() -> None:
    state = ErrorFeedback(make("topk", {"a": (4, 4)})).state_dict()
    with pytest.raises(ValueError, match=r"residuals: found \{'a': \(4, 4\)\}"):
        ErrorFeedback(make("topk")).load_state_dict(state)


def test_a_method_without_state_refuses_one() -> None:
    with pytest.raises(ValueError, match="keeps no state"):
        make("gcc").load_state_dict({"residual": {}})
