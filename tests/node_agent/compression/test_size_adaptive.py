"""One compressor for small tensors, another for large ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from lockstep import exchange
from torch import Tensor

from node_agent.compression import configure, create
from node_agent.compression.base import Layer
from node_agent.compression.settings import FP16Settings, QSGDSettings, SizeAdaptiveSettings, TopKSettings

LAYERS = [Layer("large", (64, 64)), Layer("bias", (64,)), Layer("edge", (50, 40)), Layer("just", (2001,))]
THRESHOLD = 2001


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.randn(layer.shape, generator=generator) for layer in LAYERS}


@pytest.mark.parametrize(
    ("smaller", "larger", "reduction"),
    [
        ("none", "powersgd", "aligned"),
        ("none", "topk", "private"),
        ("signsgd", "fp16", "private"),
        ({"name": "gcc", "mask": "local"}, "none", "private"),
        ("none", {"name": "size-adaptive", "threshold": 3000, "smaller": "fp16", "larger": "none"}, "aligned"),
        ("none", {"name": "size-adaptive"}, "private"),
    ],
)
def test_it_is_private_where_a_part_is(smaller: Any, larger: Any, reduction: str) -> None:
    settings = configure("size-adaptive", smaller=smaller, larger=larger)
    assert settings.reduction == reduction
    assert create(settings, LAYERS).reduction == reduction


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("fp16", "topk"), ("none", "powersgd"), ("qsgd", "onebit"), ("signsgd", "none"), ("efsignsgd", "gcc")],
)
def test_each_tensor_is_as_its_own_compressor_has_it(smaller: str, larger: str) -> None:
    mixed, small, large = (
        [create(name, LAYERS, **values) for _ in range(3)]
        for name, values in [
            ("size-adaptive", {"threshold": THRESHOLD, "smaller": smaller, "larger": larger}),
            (smaller, {}),
            (larger, {}),
        ]
    )
    for step in range(3):
        gradients = [draw(10 * step + k) for k in range(3)]
        outcomes, of_small, of_large = (exchange(group, gradients, step)[0] for group in (mixed, small, large))
        for place, layer in enumerate(LAYERS):
            expected = (of_small if layer.numel < THRESHOLD else of_large)[0].mean[place]
            for outcome in outcomes:
                assert torch.equal(outcome.mean[place], expected)


def test_it_goes_on_from_its_state() -> None:
    made = {"threshold": THRESHOLD, "smaller": {"name": "signsgd", "momentum": 0.5}, "larger": "powersgd"}
    nodes = [create("size-adaptive", LAYERS, **made) for _ in range(2)]
    exchange(nodes, [draw(0), draw(1)])
    others = [create("size-adaptive", LAYERS, **made) for _ in range(2)]
    for node, other in zip(nodes, others, strict=True):
        other.load_state_dict(node.state_dict())
    means = [exchange(group, [draw(2), draw(3)], 1)[0][0].mean for group in (nodes, others)]
    assert all(torch.equal(one, other) for one, other in zip(*means, strict=True))


def test_payloads_are_within_the_bound_and_decode() -> None:
    gradients = list(draw(0).values())
    compressor = create("size-adaptive", LAYERS, threshold=THRESHOLD, smaller="none", larger="efsignsgd")
    payload = compressor.encode(gradients)
    assert len(payload) <= compressor.size_bound(gradients)
    large, bias, edge, _ = compressor.decode(bytes(payload))
    assert torch.equal(bias, gradients[1])
    assert torch.equal(edge, gradients[2])
    assert large.unique().numel() == 2


def test_what_is_expected_is_after_the_warm_up_of_the_parts() -> None:
    gradients = [torch.randn(100, 100)]
    mixed, alone = create("size-adaptive", threshold=1, larger="dgc"), create("dgc")
    assert mixed.expected_size(gradients) == alone.expected_size(gradients)
    assert mixed.size_bound(gradients) > 10 * mixed.expected_size(gradients)


def test_settings() -> None:
    settings = configure("size-adaptive", larger={"name": "topk", "density": 0.1})
    assert settings == SizeAdaptiveSettings(smaller=FP16Settings(), larger=TopKSettings(density=0.1))
    written = json.loads(settings.model_dump_json())
    assert configure(written.pop("name"), **written) == settings
    assert create(settings, LAYERS, smaller="qsgd").settings == SizeAdaptiveSettings(
        smaller=QSGDSettings(), larger=TopKSettings(density=0.1)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0}, "compressor size-adaptive: threshold: found 0; "),
        ({"larger": "zip"}, "compressor size-adaptive: larger: found {'name': 'zip'}; .*'topk'"),
        ({"larger": {"name": "topk", "density": 2}}, "compressor size-adaptive: larger.topk.density: found 2; "),
        ({"smaller": 5}, "compressor size-adaptive: smaller: found 5; "),
        ({"larger": {"name": "qsgd", "level": 5}}, "compressor size-adaptive: larger.qsgd.level: found 5; "),
        ({"error_feedback": True}, "compressor size-adaptive: error_feedback: found True; "),
    ],
)
def test_what_is_not_known_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure("size-adaptive", **values)
