"""Runs over a shelf of three enrolled boards, for the tests of boards."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shelf import Shelf

NODES = ("n0", "n1", "n2")
LEASE = 12


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
