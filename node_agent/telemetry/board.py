"""Which Jetson this is, if it is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from node_agent.telemetry import files

_RELEASE = re.compile(r"#\s*R([0-9]+)\s*\(release\),\s*REVISION:\s*([0-9.]+)")


@dataclass(frozen=True)
class Board:
    model: str
    """as the device tree has it, for people"""
    compatible: tuple[str, ...]
    """from the most special to the system on chip, as "nvidia,p3768-0000+p3767-0003", "nvidia,tegra234" """
    l4t: str | None
    """release of Linux for Tegra, as "36.4.4"; None: not told, as in some containers"""

    def __str__(self) -> str:
        return f"{self.model}, L4T {self.l4t}" if self.l4t else self.model


def identify(root: Path = Path("/")) -> Board | None:
    """The board by its device tree and its release file below `root`; None where it is no Jetson."""
    compatible = tuple(filter(None, (files.text(root / "proc/device-tree/compatible") or "").split("\0")))
    release = files.text(root / "etc/nv_tegra_release")
    if release is None and not any(name.startswith("nvidia,tegra") for name in compatible):
        return None
    found = _RELEASE.search(release or "")
    model = files.text(root / "proc/device-tree/model") or ", ".join(compatible) or "a Jetson of unknown model"
    return Board(model, compatible, f"{found[1]}.{found[2]}" if found else None)
