"""A shelf of emulated boards: what their daemons take at rest, how long enrolment and the start of a run last.

Every board is a daemon in namespaces of its own with a certificate of its own, all on this host. Needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from shelf import Board, Shelf, missing, shelf

from edgesim import host

MIB = 2**20
REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "boards.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--boards", type=int, default=24)
    parser.add_argument("--rest", type=float, default=30.0, help="s for which the daemons are watched at rest")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {REFERENCE.name}")
    options = parser.parse_args()
    why = missing()
    if why is not None:
        print(f"boards: {why}", file=sys.stderr)
        return 2
    names = [f"board-{place:02}" for place in range(options.boards)]
    with tempfile.TemporaryDirectory() as folder, shelf(Path(folder), names) as boards:
        found = measure(boards, options.rest, options.steps)
    found = {"boards": options.boards, "versions": host.versions(), "host": host.host(), **found}
    show(found)
    if options.write:
        REFERENCE.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def measure(boards: Shelf, rest: float, steps: int) -> dict[str, Any]:
    began = time.monotonic()
    with ThreadPoolExecutor(len(boards.boards)) as pool:
        list(pool.map(Board.serve, boards.boards))
    started = time.monotonic()
    boards.enroll()
    enrolled = time.monotonic()
    time.sleep(5)  # each has begun to listen with its new certificate
    at_rest = resting(boards, rest)
    status = time.monotonic()
    boards.run("fleet", "status")
    asked = time.monotonic()
    return {
        "start_all_s": started - began,
        "enroll_all_s": enrolled - started,
        "status_all_s": asked - status,
        **at_rest,
        **trained(boards, steps),
    }


def resting(boards: Shelf, seconds: float) -> dict[str, float]:
    """Of daemons that nobody asks anything: memory, and the share of a core."""
    daemons = [psutil.Process(board.daemon.pid) for board in boards.boards if board.daemon is not None]
    before = [sum(daemon.cpu_times()[:2]) for daemon in daemons]
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    shares = [(sum(daemon.cpu_times()[:2]) - earlier) / passed for daemon, earlier in zip(daemons, before, strict=True)]
    memory = [daemon.memory_full_info() for daemon in daemons]
    return {
        "resident_mib_median": statistics.median(one.rss for one in memory) / MIB,
        "resident_mib_most": max(one.rss for one in memory) / MIB,
        "own_mib_median": statistics.median(one.uss for one in memory) / MIB,
        "cpu_share_median": statistics.median(shares),
        "cpu_share_most": max(shares),
    }


def trained(boards: Shelf, steps: int) -> dict[str, float | bool | str]:
    """A run over all boards: when its first step was made, and how long it took as a whole."""
    topology, out = boards.folder / "shelf.yaml", boards.folder / "run"
    topology.write_text(
        "name: shelf\nseed: 1\ndefaults: {link: {rate: 50 Mbit/s, delay: 1 ms}}\n"
        f"nodes: [{', '.join(board.name for board in boards.boards)}]\n"
        "emulation: {timeout: 10 min, allow_deviation: true}\n"
        "training: {scene: indian-pines, network: [64, 32, 8], batch: 32, evaluate_every: 0, compressor: gcc}\n"
    )
    words = ["run", str(topology), "--inventory", str(boards.folder / "fleet" / "boards.yaml"), "--out", str(out)]
    words += ["--set", f"training.steps={steps}", "--no-figures", "--quiet", "--lease", "60 s"]
    began = time.monotonic()
    with subprocess.Popen(boards.edgesim(*words), env=boards.environment, cwd=boards.folder) as run:
        steps_file, first = out / "steps.csv", None
        while run.poll() is None:
            if first is None and steps_file.exists() and steps_file.read_bytes().count(b"\n") > 1:
                first = time.monotonic() - began
            time.sleep(0.05)
    whole = time.monotonic() - began
    if run.returncode != 0 or first is None:
        raise RuntimeError(f"the run ended with {run.returncode}")
    summary = json.loads((out / "summary.json").read_text())
    return {
        "first_step_s": first,
        "run_s": whole,
        "steps": steps,
        "training_s": summary["time_s"],
        "nodes_agree": summary["nodes_agree"],
        "params_sha256": summary["params_sha256"],
    }


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['boards']} boards on this host", show_header=False)
    for name, value in found.items():
        if not isinstance(value, dict):
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
