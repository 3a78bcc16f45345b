"""The wall clock beside the virtual one with measured computing, on topologies/leo-ring-4.yaml: what a step takes.

Both charge a node for its own computing; the wall clock also for what this host adds: nodes that wait for a core, the
transport's and the delay lines' own threads, and whatever else runs here. Run it on an otherwise idle machine. The
columns "shared" are of a virtual clock that charges for shared cores, too: compute_factor is nodes over cores.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from edgesim.fleet.local import LocalFleet
from edgesim.results import Run
from edgesim.run import Experiment, run_all
from edgesim.topology.reader import read
from edgesim.topology.source import read_text

TOPOLOGY = Path(__file__).parents[1] / "topologies" / "leo-ring-4.yaml"
STEPS = 40
REPETITIONS = 3


def runs(folder: Path, clock: str, factor: float = 1.0) -> list[Run]:
    factors = (f"defaults.node.compute_factor={factor}",)
    overrides = (f"emulation.clock={clock}", f"training.steps={STEPS}", "training.evaluate_every=0", *factors)
    topology = read(TOPOLOGY, overrides)
    experiment = Experiment.prepare(topology, read_text(TOPOLOGY), overrides)
    return run_all(experiment, folder, LocalFleet(), lambda title: nullcontext(lambda event: None))


def cpu_s(run: Run) -> float:
    """CPU seconds that a node's process takes a step, all of its threads."""
    return float(np.nanmean(run.telemetry["cpu_percent"])) / 100 * float(run.steps["duration_s"].mean())


def main() -> None:
    console = Console(width=140)
    nodes, cores = len(read(TOPOLOGY).nodes), os.cpu_count() or 1
    table = Table(box=None, title=f"ms a step, {STEPS} steps, {cores} cores, {nodes} nodes")
    columns = (
        *("compressor", "wall p50", "virtual", "ratio", "shared", "ratio"),
        *("wall mean", "virtual", "ratio", "shared", "ratio", "CPU", "load"),
    )
    for column in columns:
        table.add_column(column, justify="right")
    found: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(REPETITIONS):
            wall = runs(Path(folder) / f"wall-{repetition}", "wall")
            load = os.getloadavg()[0]
            virtual = runs(Path(folder) / f"virtual-{repetition}", "virtual")
            shared = runs(Path(folder) / f"shared-{repetition}", "virtual", max(1.0, nodes / cores))
            for three in zip(wall, virtual, shared, strict=True):
                durations = [one.steps["duration_s"] for one in three]
                medians, means = ([1e3 * float(of(each)) for each in durations] for of in (np.median, np.mean))
                name = str(three[0].config["compressor"]["name"])
                found.setdefault(name, []).append((*medians, *means, 1e3 * cpu_s(three[0]), load))
    for name, rows in found.items():
        p50, own_p50, shared_p50, mean, own_mean, shared_mean, cpu, load = map(
            statistics.median, zip(*rows, strict=True)
        )
        figures = (
            *(p50, own_p50, p50 / own_p50, shared_p50, p50 / shared_p50),
            *(mean, own_mean, mean / own_mean, shared_mean, mean / shared_mean, cpu, load),
        )
        table.add_row(name, *(f"{figure:.2f}" if figure < 10 else f"{figure:.1f}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    main()
