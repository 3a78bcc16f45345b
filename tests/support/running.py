"""The `edgesim` command in a process of its own, as its users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE = 240.0
"""s after which a process is given up, however busy the machine"""


def edgesim(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False, **options)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from edgesim.cli import main; main()", *map(str, arguments)]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
