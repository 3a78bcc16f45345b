"""Runs over a shelf of three enrolled boards, for the tests of boards."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Callable
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


def ended(run: subprocess.Popen[str], out: Path, status: int = 1) -> str:
    """The message of a run that has failed, whose folder holds all that was measured and on whose boards nothing is
    left, of which none lasts longer than a lease."""
    measured = steps(out)
    _, said = run.communicate(timeout=3 * PATIENCE)
    assert run.returncode == status, said
    assert "Traceback" not in said
    assert steps(out) >= measured
    assert summary(out)["status"] == ("failed" if status == 1 else "interrupted")
    assert {log.name for log in (out / "logs").iterdir()} <= {"n0.log", "n1.log", "n2.log"}
    return said


def nothing_left(lab: Lab, of: tuple[str, ...] = ("n0", "n1", "n2")) -> None:
    for board in lab.shelf.boards:
        if board.name in of:
            wait_until(lambda board=board: not board.processes(), f"{board.name}: {board.processes()}", LEASE + 10)
