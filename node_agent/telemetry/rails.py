"""The power rails of a Jetson: which of them are its total, and what its power monitors measure of each.

Modules that measure their input have a rail for it. AGX Xavier, AGX Orin and Thor modules measure the supplies of
their parts: the total is the sum of those that do not feed one another. VDDQ_VDD2_1V8AO of AGX Orin is fed by
VIN_SYS_5V0 and so is part of it. Sums are taken behind the regulators: what the board draws from its plug is more.

Source: the tables of power monitors in NVIDIA's Jetson Linux Developer Guide, and its moderators on VDDQ_VDD2_1V8AO
(forums.developer.nvidia.com, topic 223111). Paths of the INA3221 on the module, and of an INA238 on the carrier, are of
L4T 32 and older (driver ina3221x, an IIO device) and of L4T 34 and later (ina3221, a hwmon device:
Documentation/hwmon/ina3221.rst and ina238.rst of the kernel).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node_agent.telemetry import files
from node_agent.telemetry.jetson import Board

_DRIVERS = Path("sys/bus/i2c/drivers")
_THOR = "nvidia,tegra264"

UNCONNECTED = "NC"
"""the label of a channel without a rail"""

TOTALS: tuple[tuple[str, ...], ...] = (
    ("VIN",),  # Thor, on carriers that have a monitor of their own
    ("VDD_IN",),  # TX2, Xavier NX, Orin Nano and NX
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
"""rails whose sum is the total; the first that a board has all of counts"""


@dataclass(frozen=True)
class Total:
    watts: float
    definition: str
    """the rails that were added: "VDD_IN", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0" """


def definition(names: Collection[str]) -> tuple[str, ...] | None:
    """The rails among `names` that are the total; None where they are of no known board, or not all that it takes."""
    return next((total for total in TOTALS if set(total) <= set(names)), None)


def total(rails: Mapping[str, float]) -> Total | None:
    """Of the power of rails, W, signed: sensors show a little less than nothing at rest."""
    parts = definition(rails)
    return None if parts is None else Total(sum(rails[name] for name in parts), " + ".join(parts))


@dataclass(frozen=True)
class _Channel:
    rail: str
    factors: tuple[Path, ...]
    """files whose product"""
    unit: float
    """in W, is the power"""
    by: str
    """what measures it, and how that is read"""

    def watts(self) -> float:
        """Signed. Raises OSError or ValueError where the monitor does not answer."""
        product = self.unit
        for factor in self.factors:
            product *= int(factor.read_text())
        return product

    def readable(self) -> bool:
        return all(files.number(factor) is not None for factor in self.factors)


class Rails:
    """Power of each rail, and of the board as its rails define it."""

    name = "power rails"

    def __init__(self, root: Path, board: Board | None) -> None:
        found = [*_iio(root), *_hwmon(root), *_carrier(root, board)]
        by_rail = {channel.rail: channel for channel in found if channel.rail != UNCONNECTED}
        self._channels = {rail: channel for rail, channel in by_rail.items() if channel.readable()}
        self.rails = tuple(self._channels)
        self.hidden = tuple(rail for rail in by_rail if rail not in self._channels)
        """rails that are there and that this user may not read"""
        self.parts = definition(self.rails)
        """rails that are the total"""

    @property
    def total(self) -> str | None:
        """How the total is defined, and by what it is read."""
        if self.parts is None:
            return None
        by = dict.fromkeys(self._channels[rail].by for rail in self.parts)
        return f"{' + '.join(self.parts)} by {', '.join(by)}"

    def read(self) -> dict[str, Any]:
        """One by one: a monitor that does not answer now costs its own rails, and the total where they are part of it.
        A total of other rails instead would be another power."""
        found: dict[str, float] = {}
        failures: dict[str, Exception] = {}
        for rail, channel in self._channels.items():
            try:
                found[rail] = channel.watts()
            except (OSError, ValueError) as error:
                failures[f"power rail {rail}"] = error
        known = self.parts is not None and set(self.parts) <= set(found)
        return {
            "rails_w": found or None,
            "total_w": sum(found[rail] for rail in self.parts or ()) if known else None,
            "power_source": self.total if known else None,
            "failures": failures,
        }

    def close(self) -> None:
        pass


def _hwmon(root: Path) -> Iterator[_Channel]:
    for chip in sorted((root / _DRIVERS).glob("ina3221/*/hwmon/hwmon*")):
        for number in (1, 2, 3):  # further ones are shunts, and their sum
            label = files.text(chip / f"in{number}_label")
            if label:
                factors = chip / f"in{number}_input", chip / f"curr{number}_input"
                yield _Channel(label, factors, 1e-6, "ina3221 hwmon")  # mV, mA


def _carrier(root: Path, board: Board | None) -> Iterator[_Channel]:
    for chip in sorted((root / _DRIVERS).glob("ina238/*/hwmon/hwmon*")):
        label = next(filter(None, map(files.text, (chip / "label", chip / "in1_label", chip / "power1_label"))), None)
        if label is None and board is not None and _THOR in board.compatible:
            label = "VIN"
        if label is not None:
            yield _Channel(label, (chip / "power1_input",), 1e-6, "ina238 hwmon")  # µW


def _iio(root: Path) -> Iterator[_Channel]:
    for chip in sorted((root / _DRIVERS).glob("ina3221x/*/iio*device*")):
        for number in range(4):  # counted from 0, later from 1
            label = files.text(chip / f"rail_name_{number}")
            if not label:
                continue
            power = chip / f"in_power{number}_input"
            if os.path.exists(power):  # False also where this user may not look, unlike that of Path
                yield _Channel(label, (power,), 1e-3, "ina3221x iio")  # mW
            else:
                factors = chip / f"in_voltage{number}_input", chip / f"in_current{number}_input"
                yield _Channel(label, factors, 1e-6, "ina3221x iio")  # mV, mA
