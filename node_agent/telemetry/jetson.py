"""GPU, memory clock and power mode of a Jetson, from the kernel's files.

On Thor the GPU's load is in no file; tegrastats has it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from node_agent.telemetry import files

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
