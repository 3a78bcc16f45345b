"""The agent's tests in the root, as far as an emulated processor can be asked for them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from root import Root

LEFT_OUT = {
    "tests/node_agent/test_agent_cli.py": "agents started as processes of their own, which the ring is made of",
    "tests/node_agent/test_ddp.py": "DDP scripts with every compressor, in processes that each import torch anew",
    "tests/node_agent/device": "probes and measurements of the machine that it runs on",
    **{
        f"tests/node_agent/daemon/test_{subject}.py": "processes that are watched by the clock on the wall"
        for subject in ("connections", "description", "jobs", "network", "notify", "process", "serve")
    },
}
"""tests or their files, and why they are left out; beside them those marked `alone`, which compare speeds"""

LIMIT = 3600
"""s"""


@dataclass(frozen=True)
class Outcome:
    passed: bool
    summary: str
    """the last line of pytest"""
    failed: tuple[str, ...]


def run(root: Root, log: Path) -> Outcome:
    """All of tests/node_agent but what is left out."""
    chosen = [f"--deselect={name}" if "::" in name else f"--ignore={name}" for name in LEFT_OUT]
    arguments = ["-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal", "-m", "not alone", *chosen]
    program = ["timeout", str(LIMIT), "python3", "-m", "pytest", *arguments, "tests/node_agent"]
    with log.open("w") as output:
        done = subprocess.run(
            root.command("sh", "-c", 'cd /project && exec "$@"', "sh", *program),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    told = log.read_text(errors="replace")
    summaries = re.findall(r"^=*\s*(\d+ (?:passed|failed|error).*?)\s*=*$", told, re.MULTILINE)
    return Outcome(
        done.returncode == 0,
        summaries[-1] if summaries else f"no summary, ended with {done.returncode}: see {log}",
        tuple(re.findall(r"^(?:FAILED|ERROR) .*", told, re.MULTILINE)),
    )
