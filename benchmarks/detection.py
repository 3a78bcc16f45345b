"""Dense, GCC and NSI over seeds: accuracy beside the controls, bytes, wire ratio and time.

Four nodes, 10 Mbit/s, virtual clock, the published network [400, 400, 50]; at the end a shorter run of GCC under both
clocks, times compared. Writes results/reference/detection.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgesim.fleet.local import LocalFleet
from edgesim.results import Run
from edgesim.run import Experiment, run_all
from edgesim.topology.reader import read
from edgesim.topology.source import read_text
from node_agent.events import Event
from node_agent.workloads.formats import SceneError

TOPOLOGY = Path(__file__).parent / "detection-4.yaml"
RESULT = Path(__file__).parents[1] / "results" / "reference" / "detection.json"
SCENES = ("indian-pines", "sandiego")
SEEDS = range(5)
SHORT = 40
"""steps of the run under both clocks"""

SHOWN = ("auc", "auc_residual", "auc_untrained", "auc_cem", "auc_ace", "auc_rx", "auc_brightness")


def runs(folder: Path, *overrides: str) -> list[Run]:
    topology = read(TOPOLOGY, overrides)
    experiment = Experiment.prepare(topology, read_text(TOPOLOGY), overrides)
    return run_all(experiment, folder, LocalFleet(), lambda title: nullcontext(_ignore))


def _ignore(event: Event) -> None:
    """Nobody watches a benchmark."""


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def main() -> None:
    console = Console(width=120)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for scene in SCENES:
            try:
                summaries = [
                    run.summary
                    for seed in SEEDS
                    for run in runs(Path(folder) / f"{scene}-{seed}", f"training.scene={scene}", f"seed={seed}")
                ]
            except SceneError as error:
                console.print(f"{scene}: left out: {error}", highlight=False)
                continue
            found += [{"scene": scene, **summary} for summary in summaries]
            console.print(_table(scene, summaries))
        wall, virtual = (
            runs(
                Path(folder) / clock, f"emulation.clock={clock}", "training.compressor=gcc", f"training.steps={SHORT}"
            )[0].summary
            for clock in ("wall", "virtual")
        )
    console.print(
        f"gcc on {SCENES[0]}, {SHORT} steps: wall clock {wall['time_s']:.2f} s, "
        f"virtual clock {virtual['time_s']:.2f} s, "
        f"ratio {wall['time_s'] / virtual['time_s']:.4f}; same parameters: "
        f"{wall['params_sha256'] == virtual['params_sha256']}",
        highlight=False,
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    kept = ("scene", "seed", "compressor", "steps", "time_s", "wall_s", "metrics", "bytes_sent", "bytes_dense")
    kept += ("ratio_wire", "ratio_values", "step_time_s", "nodes_agree", "params_sha256")
    content = {"topology": TOPOLOGY.read_text(), "runs": [{key: run[key] for key in kept} for run in found]}
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"written: {RESULT.relative_to(Path.cwd()) if RESULT.is_relative_to(Path.cwd()) else RESULT}")


def _table(scene: str, summaries: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{scene}: mean ± standard deviation over {len(SEEDS)} seeds", show_lines=False)
    names = list(dict.fromkeys(summary["compressor"]["name"] for summary in summaries))
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    of = {name: [summary for summary in summaries if summary["compressor"]["name"] == name] for name in names}
    for metric in SHOWN:
        table.add_row(metric, *(spread([run["metrics"][metric] for run in of[name]]) for name in names))
    for label, value in (
        ("MB sent per node", lambda run: max(run["bytes_sent"].values()) / 1e6),
        ("wire ratio", lambda run: run["ratio_wire"]),
        ("value ratio", lambda run: run["ratio_values"]),
        ("time, s", lambda run: run["time_s"]),
    ):
        table.add_row(label, *(f"{statistics.mean(value(run) for run in of[name]):.2f}" for name in names))
    table.add_row("nodes agree", *(str(all(run["nodes_agree"] for run in of[name])) for name in names))
    return table


if __name__ == "__main__":
    main()
