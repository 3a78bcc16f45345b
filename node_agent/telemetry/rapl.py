"""Energy counters of x86 processors (RAPL), as the kernel shows them in powercap.

They count all that the processor's packages use, whichever process it is for; memory and the rest of the machine are
not part of it. Since Linux 5.10 only root may read them. Format: Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from node_agent.telemetry import files

SOURCE = "RAPL package, of the whole host"


class Rapl:
    name = "RAPL"

    def __init__(self, root: Path) -> None:
        zones = sorted((root / "sys/class/powercap").glob("*-rapl:*"))
        packages = [zone for zone in zones if (files.text(zone / "name") or "").startswith("package")]
        self._ranges = {
            zone / "energy_uj": files.number(zone / "max_energy_range_uj") or 0
            for zone in packages
            if files.number(zone / "energy_uj") is not None
        }
        self.hidden = len(packages) - len(self._ranges)
        """packages that this user may not read"""
        if self.hidden:  # a part is no total
            self._ranges = {}
        self._before: tuple[float, dict[Path, int]] | None = None

    @property
    def total(self) -> str | None:
        return SOURCE if self._ranges else None

    def read(self) -> dict[str, Any]:
        """`counted_j` and its mean power since the last call. Raises OSError or ValueError where a counter is gone."""
        now, counts = time.monotonic(), {path: int(path.read_text()) for path in self._ranges}
        before, self._before = self._before, (now, counts)
        if before is None:
            return {"counted_j": 0.0, "power_source": SOURCE}
        since, earlier = before
        joules = sum(_advance(earlier[path], count, self._ranges[path]) for path, count in counts.items()) / 1e6
        watts = joules / (now - since) if now > since else None
        return {"counted_j": joules, "total_w": watts, "power_source": SOURCE}

    def close(self) -> None:
        pass


def _advance(before: int, after: int, largest: int) -> int:
    """Of a counter that starts again at 0 beyond its largest value."""
    return after - before if after >= before else after - before + largest + 1
