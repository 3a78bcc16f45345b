"""What a Jetson is, and what its kernel's files tell: temperatures, GPU, memory clock and power mode.

Thermal zones are there on other machines too. On Thor the GPU's load is in no file; tegrastats has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node_agent.telemetry import files

OFF = -256.0
"""°C; what the sensor of a part shows that is switched off"""

NO_SENSORS = ("PMIC-Die", "PMIC")
"""thermal zones that show a constant"""

_RELEASE = re.compile(r"#\s*R([0-9]+)\s*\(release\),\s*REVISION:\s*([0-9.]+)")

_GPU = re.compile(r"(.*\.)?(gpu|gm20b|gp10b|gv11b|ga10b)|gpu-gpc-[0-9]+")
"""names of the GPU's frequency domain: 57000000.gpu, 17000000.gv11b, 17000000.gpu, gpu-gpc-0"""

_LOADS = (
    "sys/devices/gpu.0/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/17000000.gp10b/load",
    "sys/devices/platform/17000000.gp10b/load",
)

_EMC = ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/clk/emc/clk_rate")
"""for root alone"""

_MODE = re.compile(r"pmode:([0-9]{1,4})")
_MODE_NAME = re.compile(r"^<\s*POWER_MODEL\s+ID=([0-9]{1,4})\s+NAME=(\S+)", re.MULTILINE)


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
    model = firmware_model(root) or ", ".join(compatible) or "a Jetson of unknown model"
    return Board(model, compatible, f"{found[1]}.{found[2]}" if found else None)


def firmware_model(root: Path = Path("/")) -> str | None:
    """The model that the device tree names, of any board that has one."""
    return files.text(root / "proc/device-tree/model") or None


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


class Gpu:
    name = "GPU"

    def __init__(self, root: Path) -> None:
        domains = [path for path in sorted((root / "sys/class/devfreq").glob("*")) if _GPU.fullmatch(path.name)]
        self.load = files.first_readable([*(path / "device/load" for path in domains), *(root / at for at in _LOADS)])
        self.clock = files.first_readable(path / "cur_freq" for path in domains)

    def read(self) -> dict[str, Any]:
        permille = files.number(self.load) if self.load else None
        clock = files.number(self.clock) if self.clock else None
        return {
            "gpu_percent": None if permille is None else permille / 10,
            "gpu_hz": None if clock is None else float(clock),
        }

    def close(self) -> None:
        pass


class MemoryClock:
    """Of the external memory controller (EMC)."""

    name = "memory clock"

    def __init__(self, root: Path) -> None:
        self.clock = files.first_readable([*(root / at for at in _EMC), root / "sys/class/devfreq/bwmgr/cur_freq"])

    def read(self) -> dict[str, Any]:
        clock = files.number(self.clock) if self.clock else None
        return {"emc_hz": None if clock is None else float(clock)}

    def close(self) -> None:
        pass


class PowerMode:
    """Which of the board's power modes nvpmodel has set last, by the name that its configuration gives it."""

    name = "power mode"

    def __init__(self, root: Path) -> None:
        self._status = root / "var/lib/nvpmodel/status"
        modes = _MODE_NAME.findall(files.text(root / "etc/nvpmodel.conf") or "")
        self._names = {int(number): name for number, name in modes}

    @property
    def mode(self) -> str | None:
        found = _MODE.search(files.text(self._status) or "")
        return None if found is None else self._names.get(int(found[1]), f"mode {int(found[1])}")

    def read(self) -> dict[str, Any]:
        return {"mode": self.mode}

    def close(self) -> None:
        pass
