from __future__ import annotations

import subprocess
import sys

import pytest

from node_agent.compression import configure, create
from node_agent.compression.base import Layer
from node_agent.compression.feedback import ErrorFeedback
from node_agent.compression.gcc import GCC
from node_agent.compression.settings import CATALOGUE, GCCSettings, NSISettings

LAYERS = [Layer("w", (64, 64)), Layer("thin", (4, 1000)), Layer("b", (5000,)), Layer("small", (10, 10))]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_compressor_of_the_catalogue_can_be_made(name: str) -> None:
    settings = CATALOGUE[name]()
    compressor = create(settings, LAYERS)
    assert isinstance(compressor, ErrorFeedback) == settings.error_feedback
    assert create(name, LAYERS).layers == compressor.layers


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
    assert list(create(name, LAYERS).layers) == taken


def test_overrides() -> None:
    assert isinstance(create("gcc", LAYERS, error_feedback=False), GCC)
    compressor = create(GCCSettings(density=0.25), LAYERS, error_feedback=False)
    assert isinstance(compressor, GCC)
    assert compressor.density == 0.25
    assert configure("nsi", density=0.1) == NSISettings(density=0.1)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("tokp", {}, r"compressor: found 'tokp', did you mean 'topk'\? allowed: none, fp16, topk, gcc, nsi"),
        ("zip", {}, r"compressor: found 'zip', allowed: none, fp16"),
        ("topk", {"densty": 0.1}, r"compressor topk: found a setting 'densty', did you mean 'density'\?"),
        ("topk", {"density": 2}, r"compressor topk: density: found 2; .*less than or equal to 1"),
        ("gcc", {"density": "much"}, r"compressor gcc: density: found 'much'; .*valid number"),
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
