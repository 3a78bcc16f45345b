"""Runs whose computing is modelled: nothing of the host enters them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import edgesim

from edgesim.results import load

Write = Callable[..., Path]

OF_THE_HOST = ("wall_s",)


def run(file: Path, out: Path, *options: str) -> dict[str, Any]:
    done = edgesim("run", file, "--out", out, "--no-figures", *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return {key: value for key, value in found.items() if key not in OF_THE_HOST}


def rows(out: Path, table: str) -> list[str]:
    """In the order of steps and nodes: that of the file is the one in which they came."""
    return sorted((out / table).read_text().splitlines())


@contextmanager
def busy() -> Iterator[None]:
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        hog.kill()
        hog.wait()


@pytest.fixture
def file(write_topology: Write) -> Path:
    """Everything at once that could bring a race to light: buckets, jitter, loss, rounds, boards of several kinds."""
    path = write_topology(
        3, "  compressor: {name: nsi, density: 0.1}\n  bucket: 4 kB\n", "{rate: 3 Mbit/s, jitter: 1 ms, loss: 1 %}"
    )
    boards = "nodes: [n0, {name: n1, mode: 7W}, {name: n2, device: jetson-tx2}]"
    text = path.read_text().replace("nodes: [n0, n1, n2]", boards).replace("steps: 12", "steps: 4")
    path.write_text(text.replace("defaults: {", "defaults: {node: {device: jetson-orin-nano-8gb}, "))
    return path


def test_the_same_seed_gives_the_same_times_bit_for_bit_however_busy_the_host_is(file: Path, tmp_path: Path) -> None:
    quiet = run(file, tmp_path / "quiet")
    with busy():
        loaded = run(file, tmp_path / "loaded")
    assert quiet["compute"] == "modelled"
    assert quiet == loaded
    for table in ("steps.csv", "links.csv"):
        assert rows(tmp_path / "quiet", table) == rows(tmp_path / "loaded", table)

    # The same steps take longer with half of the clusters at two thirds of the clock, and with slower memory.
    of = load(tmp_path / "quiet").of_node
    orin, slower, tx2 = (np.median(of(node)["compute_s"]) for node in ("n0", "n1", "n2"))
    assert 0 < orin < slower < tx2
    assert of("n0")["encode_s"].max() > 0

    # At 15 W the board takes 4.8 W at rest and 12.5 W loaded; of n1 and n2 the power in their modes is not known.
    computing = sum(of("n0")[f"{part}_s"].sum() for part in ("compute", "encode", "decode"))
    power = pytest.approx(4.8 * of("n0")["duration_s"].sum() + 7.7 * computing)
    assert quiet["energy_j"] == {"n0": power, "n1": None, "n2": None}
    config = json.loads((tmp_path / "quiet" / "config.json").read_text())
    assert "efficiency.compute" in config["boards"]["n0"]["unverified"]
    assert config["boards"]["n1"]["mode"] == "7W"


def test_a_pause_is_no_computing(write_topology: Write, tmp_path: Path) -> None:
    path = write_topology(1)
    text = path.read_text().replace("defaults: {", "defaults: {node: {device: jetson-orin-nano-8gb, mode: 15W}, ")
    # All of the run computes for a quarter of a millisecond of this board; the pause begins within it.
    path.write_text(text + "events:\n  - {at: 50 us, event: pause, node: n0, for: 100 s}\n")
    found = run(path, tmp_path / "run")
    assert found["time_s"] > 100
    assert found["step_time_s"]["compute"] < 1
    assert found["energy_j"]["n0"] < 5 * 101  # 4.8 W at rest


def test_a_density_follows_the_link_and_is_the_same_on_all_nodes(file: Path, tmp_path: Path) -> None:
    text = file.read_text().replace("nsi, density: 0.1", "topk, density: 0.01").replace("steps: 4", "steps: 16")
    text = text.replace("  bucket: 4 kB\n", "  density: {lowest: 0.002, highest: 0.3}\n  bucket: 4 kB\n")
    file.write_text(text.replace(", jitter: 1 ms, loss: 1 %", ""))
    found = run(file, tmp_path / "run")
    of = load(tmp_path / "run").of_node
    densities = of("n0")["density"]
    assert np.array_equal(densities, of("n1")["density"])
    assert np.array_equal(densities, of("n2")["density"])
    # The boards compute for less time than the link takes even for this: as little as is allowed is sent from then on.
    assert densities[:5].tolist() == [0.01] * 5
    assert densities[-1] == found["density"]["last"] == 0.002
    assert of("n0")["values_sent"][-1] < of("n0")["values_sent"][0]
    assert found["compressor"]["density"] == 0.01
