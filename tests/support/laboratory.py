"""Runs over a shelf of three enrolled boards, for the tests of boards."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from shelf import PATIENCE, Board, Shelf

NODES = ("n0", "n1", "n2")

LEASE = 12
"""s"""

LONG = 3000
"""steps of a run that does not end by itself"""


@dataclass
class Lab:
    """Three enrolled boards, and what a run over them is made of."""

    shelf: Shelf
    topology: Path
    runs: int = 0

    @property
    def inventory(self) -> Path:
        return self.shelf.folder / "fleet" / "boards.yaml"

    def out(self) -> Path:
        self.runs += 1
        return self.shelf.folder / f"run-{self.runs}"

    def words(self, out: Path, steps: int, *more: str) -> list[str]:
        lengths = ["--set", f"training.steps={steps}", "--out", str(out), "--no-figures", "--quiet"]
        return ["run", str(self.topology), *lengths, *more]

    def on_boards(self, out: Path, steps: int, *more: str) -> list[str]:
        boards = ["--inventory", str(self.inventory), "--lease", f"{LEASE} s"]
        return self.words(out, steps, *boards, *more)

    def start(self, out: Path, steps: int, *more: str) -> subprocess.Popen[str]:
        """A run over the boards, going on."""
        return subprocess.Popen(
            self.shelf.edgesim(*self.on_boards(out, steps, *more)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.shelf.environment,
            cwd=self.shelf.folder,
        )


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def steps(out: Path) -> int:
    file = out / "steps.csv"
    if not file.exists():
        return 0
    with file.open() as rows:
        return sum(1 for _ in csv.reader(rows)) - 1


def wait_until(condition: Callable[[], bool], what: str, patience: float = 2 * PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def training(lab: Lab, out: Path) -> subprocess.Popen[str]:
    run = lab.start(out, LONG)
    wait_until(lambda: steps(out) > 30 or run.poll() is not None, "no step was made")
    assert run.poll() is None, run.communicate()
    return run


def worker(board: Board) -> psutil.Process:
    (found,) = [process for process in board.processes() if "node_agent" in " ".join(process.cmdline())]
    return found


def ended(
    run: subprocess.Popen[str], out: Path, status: int = 1, there: Sequence[str] = NODES
) -> tuple[str, dict[str, int]]:
    """The message of a run that has failed or was interrupted, and the last step that is known of each node. Its folder
    holds all that was measured, and the logs of the boards that were `there` to the end."""
    _, said = run.communicate(timeout=3 * PATIENCE)
    assert run.returncode == status, said
    assert "Traceback" not in said
    assert summary(out)["status"] == ("failed" if status == 1 else "interrupted")
    logs = {log.name for log in (out / "logs").iterdir()}
    assert {f"{node}.log" for node in there} <= logs <= {f"{node}.log" for node in NODES}
    last = last_steps(out)
    if status == 1:  # no node ends a step that another has not begun, and who failed told all before
        assert min(last[node] for node in there) >= max(last.values()) - 1, last
    return said, last


def last_steps(out: Path) -> dict[str, int]:
    """Of each node: no row before it is missing."""
    with (out / "steps.csv").open() as file:
        rows = [(row["node"], int(row["step"])) for row in csv.DictReader(file)]
    last = {}
    for node in NODES:
        told = [step for of, step in rows if of == node]
        assert told == list(range(1, len(told) + 1)), (node, told)
        last[node] = len(told)
    return last


def nothing_left(lab: Lab, of: Sequence[str] = NODES) -> None:
    for board in lab.shelf.boards:
        if board.name in of:
            wait_until(lambda board=board: not board.processes(), f"{board.name}: {board.processes()}", LEASE + 10)
