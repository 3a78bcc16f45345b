"""A plain DDP script with PyTorch's own hooks and the one here, one after the other over the same links.

`edgesim exec` runs benchmarks/ddp.py in the namespaces of a file: dense, with PyTorch's fp16 and PowerSGD, with our
compressors. With the autoencoder, `edgesim run --links netns` also trains the background learner, a network of the same
shape, over the same links. What counts is the time of a step and what it put on the links of the first node: of the
script as the kernel counts it, headers and acknowledgements included, and of the runs the messages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
EDGESIM = (sys.executable, "-c", "from edgesim.cli import main; main()")
WIDTHS = (400, 400, 50)
BANDS = 200
HOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDP dense": ("dense", {}),
    "DDP, PyTorch's fp16": ("torch-fp16", {}),
    "DDP, PyTorch's PowerSGD, rank 1": ("torch-powersgd", {"matrix_approximation_rank": 1}),
    "DDP, PyTorch's PowerSGD, rank 4": ("torch-powersgd", {"matrix_approximation_rank": 4}),
    "DDP, none": ("none", {}),
    "DDP, fp16": ("fp16", {}),
    "DDP, gcc, density 0.5": ("gcc", {"density": 0.5}),
    "DDP, topk, density 0.02": ("topk", {"density": 0.02}),
    "DDP, nsi, density 0.02": ("nsi", {"density": 0.02, "warmup_steps": 0}),
}
COMPRESSORS = {
    "run, none": "none",
    "run, fp16": "fp16",
    "run, gcc, density 0.5": "{name: gcc, density: 0.5}",
    "run, topk, density 0.02": "{name: topk, density: 0.02}",
    "run, nsi, density 0.02": "{name: nsi, density: 0.02, warmup_steps: 0}",
}


def script(file: Path, hook: str, settings: dict[str, Any], model: str, steps: int) -> dict[str, Any]:
    """What rank 0 of the DDP script printed."""
    widths = [str(width) for width in (BANDS, *WIDTHS)]
    program = [sys.executable, str(ROOT / "benchmarks" / "ddp.py"), "--hook", hook, "--settings", json.dumps(settings)]
    what = ["--model", model, "--steps", str(steps), "--widths", *widths]
    done = subprocess.run(
        [*EDGESIM, "exec", str(file), "--", *program, *what], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")
    line = next(line for line in done.stdout.splitlines() if '"step_s"' in line)
    found: dict[str, Any] = json.loads(line[line.index("{") :])
    return found


def run(file: Path, compressor: str, steps: int) -> dict[str, Any]:
    """Median time of a step, s, and bytes a step that left the first node."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "training.compressor": compressor,
            "training.network": f"[{', '.join(map(str, WIDTHS))}]",
            "training.steps": steps,
            "training.evaluate_every": 0,
        }
        settings = [part for path, value in options.items() for part in ("--set", f"{path}={value}")]
        out = Path(folder) / "run"
        done = subprocess.run(
            [*EDGESIM, "run", str(file), "--links", "netns", *settings, "--out", str(out), "--no-figures", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        summary = json.loads((out / "summary.json").read_text())
    first = summary["nodes"][0]
    return {
        "step_s": summary["step_time_s"]["p50"],
        "bytes": summary["bytes_sent"][first] / summary["steps"],
        "parameters": summary["parameters"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "topologies" / "leo-ring-4.yaml")
    parser.add_argument("--model", choices=("autoencoder", "resnet"), default="autoencoder")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    rows = {name: script(options.file, *hook, options.model, options.steps) for name, hook in HOOKS.items()}
    if options.model == "autoencoder":
        rows |= {name: run(options.file, compressor, options.steps) for name, compressor in COMPRESSORS.items()}
    table = Table("", "step", "of DDP dense", "MB a step, first node", "parameters", title=str(options.file.name))
    dense = rows["DDP dense"]["step_s"]
    for name, found in rows.items():
        table.add_row(
            name,
            f"{found['step_s'] * 1e3:.0f} ms",
            f"{found['step_s'] / dense:.3f}",
            f"{found['bytes'] / 1e6:.3f}",
            f"{found['parameters']:,}",
        )
    Console(width=100).print(table)
    print("bytes of the DDP script: the kernel's count, headers and acknowledgements included; of the runs: messages")


if __name__ == "__main__":
    main()
