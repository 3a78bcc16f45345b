from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from scenes_made import write_scene

from edgesim.network import records

# Nodes are forked from a server that this process starts; their libraries would start a thread per core.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

Write = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def own_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests kill leaves its record among the tests' own, and is removed at last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield
        list(records.clean())


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scene as .npz."""
    return write_scene(tmp_path_factory.mktemp("scene") / "small.npz")


@pytest.fixture
def write_topology(tmp_path: Path, scene: Path) -> Write:
    """Writes a topology file of a few quick steps over `nodes` nodes; `training` adds lines to its training section.
    No probe has to be made again on a busy machine."""

    def write(
        nodes: int = 3, training: str = "", links: str = "{rate: 20 Mbit/s, delay: 2 ms}", more: str = ""
    ) -> Path:
        names = ", ".join(f"n{i}" for i in range(nodes))
        path = tmp_path / "small.yaml"
        path.write_text(
            f"name: small\nseed: 3\ndefaults: {{link: {links}}}\nnodes: [{names}]\n"
            f"emulation: {{clock: virtual, timeout: 20 s, allow_deviation: true, tolerance: 90 %}}\n"
            f"training:\n  scene: {scene}\n  network: [48, 40, 8]\n  steps: 12\n  batch: 32\n"
            f"  learning_rate: 1e-3\n  evaluate_every: 5\n{training}"
        )
        return path

    return write
