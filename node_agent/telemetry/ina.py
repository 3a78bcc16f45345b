"""The power monitors of a Jetson: what the INA3221 on the module, and an INA238 on the carrier, measure.

Paths are of L4T 32 and older (driver ina3221x, an IIO device) and of L4T 34 and later (ina3221, a hwmon device:
Documentation/hwmon/ina3221.rst and ina238.rst of the kernel).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node_agent.telemetry import files, rails
from node_agent.telemetry.board import Board

_DRIVERS = Path("sys/bus/i2c/drivers")
_THOR = "nvidia,tegra264"


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
        by_rail = {channel.rail: channel for channel in found if channel.rail != rails.UNCONNECTED}
        self._channels = {rail: channel for rail, channel in by_rail.items() if channel.readable()}
        self.rails = tuple(self._channels)
        self.hidden = tuple(rail for rail in by_rail if rail not in self._channels)
        """rails that are there and that this user may not read"""

    @property
    def total(self) -> str | None:
        """How the total is defined, and by what it is read."""
        parts = rails.definition(self.rails)
        if parts is None:
            return None
        by = dict.fromkeys(self._channels[rail].by for rail in parts)
        return f"{' + '.join(parts)} by {', '.join(by)}"

    def read(self) -> dict[str, Any]:
        """Raises OSError or ValueError where a monitor does not answer."""
        found = {rail: channel.watts() for rail, channel in self._channels.items()}
        total = rails.total(found)
        watts = None if total is None else total.watts
        return {"rails_w": found, "total_w": watts, "power_source": self.total}

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
