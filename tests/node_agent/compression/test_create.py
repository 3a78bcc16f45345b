from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from methods import memory_of
from pydantic import TypeAdapter

from node_agent.compression import configure, create
from node_agent.compression.adacomp import AdaComp
from node_agent.compression.base import Layer
from node_agent.compression.build import METHODS
from node_agent.compression.feedback import ErrorFeedback, LowPass
from node_agent.compression.momentum import MomentumCorrection
from node_agent.compression.settings import (
    CATALOGUE,
    AnyCompressorSettings,
    CompressorSettings,
    GCCSettings,
    NSISettings,
)

LAYERS = [Layer("w", (64, 64)), Layer("thin", (4, 1000)), Layer("b", (5000,)), Layer("small", (10, 10))]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_compressor_of_the_catalogue_can_be_made(name: str) -> None:
    settings = CATALOGUE[name]()
    assert settings.name == name
    assert settings.source
    compressor = create(settings, LAYERS)
    assert list(compressor.layers) == ["w", "thin", "b", "small"]
    assert (memory_of(compressor) is not None) == settings.error_feedback
    assert compressor.reduction == settings.reduction


def test_no_two_methods_have_the_same_number_on_the_wire() -> None:
    numbers = [settings.wire_id for settings in CATALOGUE.values()]
    assert len(set(numbers)) == len(numbers)


def test_the_catalogue_is_of_all_that_a_topology_file_may_name() -> None:
    schema = TypeAdapter(AnyCompressorSettings).json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(CATALOGUE)
    assert list(CATALOGUE) == [*METHODS, "size-adaptive"]


@pytest.mark.parametrize(
    ("settings", "memory"),
    [
        (configure("topk"), ErrorFeedback),
        (configure("dgc"), MomentumCorrection),
        (configure("dgc", momentum_correction=0.0), ErrorFeedback),
        (configure("dgc", momentum_correction=0.0, clip=1.0), MomentumCorrection),
        (configure("nsi"), ErrorFeedback),
        (configure("nsi", momentum_correction=0.5), MomentumCorrection),
        (configure("cltk", low_pass=0.5), LowPass),
        (configure("terngrad", error_feedback=True), ErrorFeedback),
        (configure("adacomp"), AdaComp),
    ],
)
def test_memory_is_of_the_kind_that_the_settings_ask_for(settings: CompressorSettings, memory: type) -> None:
    assert type(memory_of(create(settings, LAYERS))) is memory


def every(of: type[CompressorSettings]) -> Iterator[type[CompressorSettings]]:
    for one in of.__subclasses__():
        yield from every(one)
        if "name" in vars(one).get("__annotations__", {}):
            yield one


def test_every_settings_class_is_in_the_catalogue() -> None:
    assert set(every(CompressorSettings)) == set(CATALOGUE.values())


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("none", ["w", "thin", "b", "small"]),
        ("fp16", ["w", "thin", "b", "small"]),
        ("topk", ["w", "thin"]),
        ("nsi", ["w", "thin"]),
        ("gcc", ["w"]),
    ],
)
def test_layers_are_those_that_the_method_takes(name: str, taken: list[str]) -> None:
    assert [layer.name for layer in LAYERS if METHODS[name].takes(layer)] == taken
    bytes_of = create(name, density=0.5) if name != "none" and name != "fp16" else create(name)
    gradients = [torch.randn(layer.shape) for layer in LAYERS]
    exact = [
        torch.equal(found, g) for found, g in zip(bytes_of.decode(bytes_of.encode(gradients)), gradients, strict=True)
    ]
    if name not in ("none", "fp16"):
        assert [layer.name for layer, same in zip(LAYERS, exact, strict=True) if not same] == taken


def test_overrides() -> None:
    assert create("gcc", LAYERS, error_feedback=False).settings == GCCSettings(error_feedback=False)
    assert create(GCCSettings(density=0.25), LAYERS, error_feedback=False).settings == GCCSettings(
        density=0.25, error_feedback=False
    )
    assert configure("nsi", density=0.1) == NSISettings(density=0.1)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("tokp", {}, r"compressor: found 'tokp', did you mean 'topk'\? allowed: none, fp16, bf16"),
        ("zip", {}, r"compressor: found 'zip', allowed: none, fp16"),
        ("topk", {"densty": 0.1}, r"compressor topk: found a setting 'densty', did you mean 'density'\?"),
        ("topk", {"density": 2}, r"compressor topk: density: found 2; .*less than or equal to 1"),
        ("gcc", {"density": "much"}, r"compressor gcc: density: found 'much'; .*valid number"),
        ("terngrad", {"clip": float("inf")}, r"compressor terngrad: clip: found inf; .*finite number"),
        ("adacomp", {"soft": float("inf")}, r"compressor adacomp: soft: found inf; .*finite number"),
        ("none", {"error_feedback": True}, r"compressor none: error_feedback: found True"),
    ],
)
def test_what_is_not_known_is_refused(name: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        create(name, LAYERS, **values)
    assert "\n" not in str(refusal.value)


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, node_agent.compression, node_agent.compression.settings; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )
