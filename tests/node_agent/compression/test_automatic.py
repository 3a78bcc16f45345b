from __future__ import annotations

import pytest
import torch
from lockstep import exchange
from methods import SHAPES, draw

from node_agent.compression import create
from node_agent.compression.automatic import INTERVAL
from node_agent.compression.base import Layer
from node_agent.compression.compressor import Compressor
from node_agent.compression.settings import AutomaticDensity

LAYERS = [Layer(name, shape) for name, shape in SHAPES.items()]


def nodes(count: int, lowest: float = 0.001, highest: float = 0.25, density: float = 0.01) -> list[Compressor]:
    bounds = AutomaticDensity(lowest=lowest, highest=highest)
    return [create("topk", LAYERS, automatic=bounds, density=density) for _ in range(count)]


def train(compressors: list[Compressor], steps: int, computing: list[float], delay: float, per_density: float) -> None:
    """Steps on a link on which an exchange of density r takes delay + per_density * r seconds; the node whose computing
    is over last waits least."""
    first = getattr(compressors[0], "trained", 0)
    for step in range(first, first + steps):
        exchange(compressors, [draw(step + k) for k in range(len(compressors))], step)
        for compressor, own in zip(compressors, computing, strict=True):
            assert compressor.density is not None
            took = delay + per_density * compressor.density
            compressor.observe(own, took + max(computing) - own)
        assert len({compressor.density for compressor in compressors}) == 1
    compressors[0].trained = first + steps  # type: ignore[attr-defined]


def test_the_exchange_comes_to_take_as_long_as_the_longest_computing() -> None:
    compressors = nodes(3)
    train(compressors, 60, [0.1, 0.5, 0.3], delay=0.1, per_density=10.0)
    assert compressors[2].density == pytest.approx((0.5 - 0.1) / 10, rel=0.01)


def test_it_follows_a_link_that_becomes_slower() -> None:
    compressors = nodes(2)
    train(compressors, 40, [1.0, 1.0], delay=0.0, per_density=10.0)
    assert compressors[0].density == pytest.approx(0.1, rel=0.01)
    train(compressors, 40, [1.0, 1.0], delay=0.0, per_density=50.0)
    assert compressors[0].density == pytest.approx(0.02, rel=0.01)


def test_it_keeps_within_its_bounds() -> None:
    compressors = nodes(2, lowest=0.005, highest=0.05, density=0.5)
    assert compressors[0].density == 0.05
    train(compressors, 30, [1.0, 1.0], delay=0.0, per_density=1.0)
    assert compressors[0].density == 0.05
    train(compressors, 30, [1.0, 1.0], delay=2.0, per_density=1.0)
    assert compressors[0].density == 0.005


def test_a_change_is_at_most_fourfold_and_every_few_steps() -> None:
    compressors = nodes(2)
    train(compressors, INTERVAL, [1.0, 1.0], delay=0.0, per_density=1e-6)
    assert compressors[0].density == 0.01
    train(compressors, 1, [1.0, 1.0], delay=0.0, per_density=1e-6)
    assert compressors[0].density == 0.04


def test_the_warm_up_is_over_before_the_density_follows() -> None:
    bounds = AutomaticDensity(lowest=0.001, highest=0.25)
    compressors = [create("topk", LAYERS, automatic=bounds, density=0.02, warmup_steps=12) for _ in range(2)]
    entries = sum(layer.numel for layer in LAYERS)
    for step in range(15):
        outcomes, _ = exchange(compressors, [draw(step), draw(step + 1)], step)
        for compressor, outcome in zip(compressors, outcomes, strict=True):
            assert compressor.density is not None
            assert compressor.density == pytest.approx(sum(one.values for one in outcome.said) / entries, abs=2e-3)
            compressor.observe(1.0, 0.1 + 18 * compressor.density)
    assert compressors[0].density == 0.02
    exchange(compressors, [draw(15), draw(16)], 15)
    # Of steps 12 to 14 alone, in which an exchange took 0.1 + 18 * 0.02 s.
    assert compressors[0].density == pytest.approx(0.02 / 0.46)


@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_a_payload_is_within_the_bound_when_the_density_changes(warmup_steps: int) -> None:
    compressor = create("topk", density=0.01, warmup_steps=warmup_steps, automatic=AutomaticDensity())
    gradients, sizes = [torch.randn(100, 100)], []
    for _ in range(3 * INTERVAL + 1):
        bound = compressor.size_bound(gradients)
        sizes.append(len(compressor.encode(gradients)))
        assert sizes[-1] <= bound
        compressor.observe(1.0, 0.01)
    assert sizes[-1] > 2 * sizes[2 * INTERVAL - 1]


def test_a_method_without_a_density_is_left_alone() -> None:
    compressor = create("none", LAYERS, automatic=AutomaticDensity())
    compressor.observe(1.0, 1.0)
    assert compressor.density is None


def test_a_run_resumes_with_its_density() -> None:
    first, second = nodes(1)[0], nodes(1)[0]
    train([first], 7, [1.0], delay=0.0, per_density=20.0)
    second.load_state_dict(first.state_dict())
    for step in range(7, 12):
        (one,), _ = exchange([first], [draw(step)], step)
        (other,), _ = exchange([second], [draw(step)], step)
        assert [a.values for a in one.said] == [b.values for b in other.said]
        first.observe(1.0, 0.5)
        second.observe(1.0, 0.5)
        assert first.density == second.density


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="a highest density that is not below the lowest"):
        AutomaticDensity(lowest=0.5, highest=0.1)
