"""What a line of NVIDIA's `tegrastats` says: a pure parser.

    [MM-DD-YYYY HH:MM:SS ]RAM used/totalMB (lfb NxSMB) [SWAP used/totalMB (cached cMB)] CPU [p%@MHz|off,...]
    [EMC_FREQ p%@MHz] [GR3D_FREQ p%|p%@MHz|p%@[MHz,...]|@[MHz,...]] [engines] [zone@T C[/Tmax C] ...]
    [RAIL now/mean | RAIL now mW/mean mW[/most mW] ...]

The line differs between releases, boards and users: every field is optional, and what is not understood is left out.
Rails are told by their unit; where the line has none, as of L4T 32, by the names of NVIDIA's boards.
Source: "tegrastats Utility" of NVIDIA's Jetson Linux Developer Guide, and lines of boards with L4T 32 to 39.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from node_agent.telemetry.jetson import NO_SENSORS, OFF
from node_agent.telemetry.rails import UNCONNECTED

# Runs of digits are bounded: a number of any length may stand in a damaged line.
_MEMORY = re.compile(r"(?<!\S)(RAM|SWAP)\s+([0-9]{1,12})/([0-9]{1,12})([kMG]?)B(?![A-Za-z])")
_CPUS = re.compile(r"(?<!\S)CPU\s*\[([^\]]*)\]")
_CPU = re.compile(r"\s*(?:off|([0-9]{1,3})%(?:@([0-9]{1,6}))?)\s*")
_EMC = re.compile(r"(?<!\S)EMC_FREQ\s+(?:([0-9]{1,3})%)?(?:@([0-9]{1,6}))?(?=\s|$)")
_GPU = re.compile(
    r"(?<!\S)GR3D_FREQ\s+(?:([0-9]{1,3})%)?(?:@(?:\[([0-9]{1,6}(?:,[0-9]{1,6}){0,31})\]|([0-9]{1,6})))?(?=\s|$)"
)
_TEMPERATURE = re.compile(
    r"(?<!\S)([A-Za-z]\w*)@(-?[0-9]{1,4}(?:\.[0-9]{1,6})?)C(?:/-?[0-9]{1,4}(?:\.[0-9]{1,6})?C)?(?=\s|$)"
)
_MILLIWATTS = r"(-?[0-9]{1,9})mW/-?[0-9]{1,9}mW(?:/-?[0-9]{1,9}mW)?(?=\s|$)"
_RAIL = re.compile(rf"(?<!\S)([A-Za-z]\w*)\s+{_MILLIWATTS}")
_BARE_RAIL = re.compile(rf"(?<!\S)((?:VDD|VIN|POM)\w*|GPU|CPU|SOC|CV|SYS5V)\s+{_MILLIWATTS.replace('mW', '')}")
_UNITS = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Used:
    """Bytes, of memory or of swap space."""

    used: int
    total: int


@dataclass(frozen=True)
class Cpu:
    percent: float
    hz: float | None


@dataclass(frozen=True)
class Sample:
    """One line, in SI units. None, or nothing, for what the line does not tell."""

    ram: Used | None = None
    swap: Used | None = None
    cpus: tuple[Cpu | None, ...] | None = None
    """None in it: that processor is off"""
    emc_percent: float | None = None
    """bandwidth used, of what the memory's clock allows"""
    emc_hz: float | None = None
    gpu_percent: float | None = None
    gpu_hz: tuple[float, ...] = ()
    """of each of its clusters, 0 where one is gated"""
    temperatures: dict[str, float] = field(default_factory=dict)
    """°C by zone, without those that are off or show a constant"""
    rails: dict[str, float] = field(default_factory=dict)
    """W at the time of the line, by rail; a little below 0 at rest"""

    @property
    def empty(self) -> bool:
        return self == Sample()


def parse(line: str) -> Sample:
    """Never raises: of a line that is none of tegrastats', the sample is empty."""
    memory = {name: _used(used, total, unit) for name, used, total, unit in _MEMORY.findall(line)}
    emc, gpu = _EMC.search(line), _GPU.search(line)
    clocks = (gpu[2] or gpu[3] or "").split(",") if gpu else []
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line) if name not in NO_SENSORS}
    rails = [*_RAIL.findall(line), *_BARE_RAIL.findall(line)]
    return Sample(
        ram=memory.get("RAM"),
        swap=memory.get("SWAP"),
        cpus=_cpus(line),
        emc_percent=float(emc[1]) if emc and emc[1] else None,
        emc_hz=_hz(emc[2]) if emc and emc[2] else None,
        gpu_percent=float(gpu[1]) if gpu and gpu[1] else None,
        gpu_hz=tuple(_hz(clock) for clock in clocks if clock),
        temperatures={name: value for name, value in temperatures.items() if value > OFF},
        rails={name: int(milliwatts) / 1e3 for name, milliwatts in rails if name != UNCONNECTED},
    )


def _used(used: str, total: str, unit: str) -> Used:
    return Used(int(used) * _UNITS[unit], int(total) * _UNITS[unit])


def _hz(megahertz: str) -> float:
    return int(megahertz) * 1e6


def _cpus(line: str) -> tuple[Cpu | None, ...] | None:
    """None also where one of them cannot be read: the others' places would not be theirs."""
    found = _CPUS.search(line)
    if found is None:
        return None
    entries = [_CPU.fullmatch(entry) for entry in found[1].split(",")]
    if not all(entries):
        return None
    return tuple(
        Cpu(float(entry[1]), _hz(entry[2]) if entry[2] else None) if entry[1] else None for entry in entries if entry
    )
