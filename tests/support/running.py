"""The `edgesim` command: in this process, whose server of nodes has torch loaded already, or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

PATIENCE = 240.0
"""s after which a process is given up, however busy the machine"""


def edgesim(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command here; an error that it does not turn into a message is raised."""
    from edgesim.cli import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess([*map(str, arguments)], result.exit_code, result.stdout, result.stderr)


def command(*arguments: str | Path) -> list[str]:
    """To start it in a process of its own, as its users do."""
    return [sys.executable, "-c", "from edgesim.cli import main; main()", *map(str, arguments)]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
