"""The wall clock beside the virtual one with measured computing, on topologies/leo-ring-4.yaml: what a step takes.

Both charge a node for its own computing; the wall clock also for what this host adds: nodes that wait for a core, the
transport's and the delay lines' own threads, and whatever else runs here. Run it on an otherwise idle machine.
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


def runs(folder: Path, clock: str) -> list[Run]:
    overrides = (f"emulation.clock={clock}", f"training.steps={STEPS}", "training.evaluate_every=0")
    topology = read(TOPOLOGY, overrides)
    experiment = Experiment.prepare(topology, read_text(TOPOLOGY), overrides)
    return run_all(experiment, folder, LocalFleet(), lambda title: nullcontext(lambda event: None))


def cpu_s(run: Run) -> float:
    """CPU seconds that a node's process takes a step, all of its threads."""
    return float(run.telemetry["cpu_percent"].mean()) / 100 * float(run.steps["duration_s"].mean())


def main() -> None:
    console = Console(width=120)
    table = Table(
        box=None, title=f"ms a step, {STEPS} steps, {os.cpu_count()} cores, {len(read(TOPOLOGY).nodes)} nodes"
    )
    columns = ("compressor", "wall p50", "virtual p50", "ratio", "wall mean", "virtual mean", "ratio", "CPU", "load")
    for column in columns:
        table.add_column(column, justify="right")
    found: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(REPETITIONS):
            wall = runs(Path(folder) / f"wall-{repetition}", "wall")
            load = os.getloadavg()[0]
            for one, other in zip(wall, runs(Path(folder) / f"virtual-{repetition}", "virtual"), strict=True):
                durations = one.steps["duration_s"], other.steps["duration_s"]
                medians, means = ([1e3 * float(of(each)) for each in durations] for of in (np.median, np.mean))
                name = str(one.config["compressor"]["name"])
                found.setdefault(name, []).append((*medians, *means, 1e3 * cpu_s(one), load))
    for name, rows in found.items():
        p50, virtual_p50, mean, virtual_mean, cpu, load = map(statistics.median, zip(*rows, strict=True))
        figures = (p50, virtual_p50, p50 / virtual_p50, mean, virtual_mean, mean / virtual_mean, cpu, load)
        table.add_row(name, *(f"{figure:.2f}" if figure < 10 else f"{figure:.1f}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    main()
