"""Temperatures, by the kernel's thermal zones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node_agent.telemetry import files

OFF = -256.0
"""°C; what the sensor of a part shows that is switched off"""

NO_SENSORS = ("PMIC-Die", "PMIC")
"""zones that show a constant"""


class Temperatures:
    name = "temperatures"

    def __init__(self, root: Path) -> None:
        zones: dict[str, Path] = {}
        for path in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
            kind = files.text(path / "type")
            if kind and kind not in NO_SENSORS:
                zones.setdefault(kind, path / "temp")
        self._zones = zones

    def read(self) -> dict[str, Any]:
        """Without the zones that are gated now, whose reading is refused (EAGAIN)."""
        readings = {kind: files.number(path) for kind, path in self._zones.items()}
        found = {kind: value / 1000 for kind, value in readings.items() if value is not None}
        return highest({kind: value for kind, value in found.items() if value != OFF})

    def close(self) -> None:
        pass


def highest(temperatures: dict[str, float]) -> dict[str, Any]:
    """What telemetry has of temperatures, °C by zone."""
    return {
        "temperature_c": max(temperatures.values(), default=None),
        "temperatures_c": temperatures or None,
    }
