"""The method in the package's README is one: it holds to what every method holds to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lockstep import exchange
from methods import draw, memory_of

import node_agent.compression as package
from node_agent.compression import create
from node_agent.compression.base import Layer
from node_agent.compression.build import METHODS
from node_agent.compression.settings import CATALOGUE

README = Path(str(package.__file__)).parent / "README.md"


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    found: dict[str, Any] = {"__name__": "chunks"}
    exec(compile(code, str(README), "exec", dont_inherit=True), found)
    monkeypatch.setitem(CATALOGUE, "chunks", found["ChunksSettings"])
    monkeypatch.setitem(METHODS, "chunks", found["Chunks"])


@pytest.mark.usefixtures("chunks")
def test_the_method_of_the_readme_averages_among_nodes() -> None:
    shapes = {"a": (40, 30), "b": (16, 8, 3, 3), "c": (33, 35)}
    nodes = [create("chunks", [Layer(name, shape) for name, shape in shapes.items()], density=0.2) for _ in range(3)]
    for step in range(3):
        outcomes, _ = exchange(nodes, [draw(10 * step + k, shapes) for k in range(3)], step)
        for place in range(3):
            said = torch.stack([outcome.said[place].decoded() for outcome in outcomes])
            torch.testing.assert_close(outcomes[0].mean[place], said.mean(0))
            assert torch.equal(outcomes[1].mean[place], outcomes[0].mean[place])
            kept = int((outcomes[0].mean[place] != 0).sum())
            assert kept <= 0.2 * outcomes[0].mean[place].numel() + 64


@pytest.mark.usefixtures("chunks")
def test_it_has_residuals_payloads_bounds_and_a_state() -> None:
    compressor = create("chunks", density=0.1)
    gradients = [torch.randn(50, 70), torch.randn(9)]
    for _ in range(3):
        bound = compressor.size_bound(gradients)
        payload = compressor.encode(gradients)
        assert len(payload) <= bound
        decoded = compressor.decode(bytes(payload))
        assert torch.equal(decoded[1], gradients[1])
    memory = memory_of(compressor)
    assert memory is not None
    assert memory.residual["0"].any()
    other = create("chunks", density=0.1)
    other.load_state_dict(compressor.state_dict())
    assert bytes(other.encode(gradients)) == bytes(compressor.encode(gradients))
