"""What must hold for a contact or a shadow, as quantities that are positive while it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgesim.orbit import shadow
from edgesim.orbit.earth import Array, Index
from edgesim.orbit.sight import distance, line_height, sine_of_elevation
from edgesim.orbit.sky import Sky


class Condition(Protocol):
    """Of many rows: pairs of bodies, or single ones."""

    def __len__(self) -> int: ...

    def grid(self, satellites: Array, times: Array) -> Array:
        """Of all rows at all times (T,), given the positions of all satellites then, (3, S, T): (rows, T)."""

    def at(self, row: Index, time: Array) -> Array:
        """Of rows (N,), each at a time (N,) of its own: (N,)."""


@dataclass(frozen=True)
class InSight:
    """Two satellites over the limb: m by which the line between them clears the sphere of `clearance`."""

    sky: Sky
    first: Index
    """numbers of the satellites, (L,)"""
    second: Index
    clearance: float
    """least height of the line over the mean sphere, m"""

    def __len__(self) -> int:
        return len(self.first)

    def grid(self, satellites: Array, times: Array) -> Array:
        return line_height(satellites[:, self.first], satellites[:, self.second]) - self.clearance

    def at(self, row: Index, time: Array) -> Array:
        return line_height(*self._ends(row, time)) - self.clearance

    def range_at(self, row: Index, time: Array) -> Array:
        """Distance of the two, m."""
        return distance(*self._ends(row, time))

    def _ends(self, row: Index, time: Array) -> tuple[Array, Array]:
        return self.sky.positions_at(self.first[row], time), self.sky.positions_at(self.second[row], time)


@dataclass(frozen=True)
class OverHorizon:
    """A satellite over a station's mask: by how much the sine of its elevation exceeds the mask's."""

    sky: Sky
    satellite: Index
    """numbers of the satellites, (L,)"""
    station: Index
    """numbers of the stations, from 0"""

    def __len__(self) -> int:
        return len(self.satellite)

    def grid(self, satellites: Array, times: Array) -> Array:
        used, place = np.unique(self.station, return_inverse=True)
        ground, up = self.sky.ground_at(used[:, None], times[None, :])
        sine = sine_of_elevation(ground[:, place], up[:, place], satellites[:, self.satellite])
        above: Array = sine - np.sin(self.sky.stations.mask[self.station])[:, None]
        return above

    def at(self, row: Index, time: Array) -> Array:
        above: Array = self.sine_at(row, time) - np.sin(self.sky.stations.mask[self.station[row]])
        return above

    def sine_at(self, row: Index, time: Array) -> Array:
        """Sine of the elevation."""
        ground, up = self.sky.ground_at(self.station[row], time)
        return sine_of_elevation(ground, up, self.sky.positions_at(self.satellite[row], time))

    def range_at(self, row: Index, time: Array) -> Array:
        """Slant range, m."""
        ground, _ = self.sky.ground_at(self.station[row], time)
        return distance(ground, self.sky.positions_at(self.satellite[row], time))


@dataclass(frozen=True)
class InShadow:
    """A satellite in the Earth's shadow: how deep, m."""

    sky: Sky
    satellite: Index

    def __len__(self) -> int:
        return len(self.satellite)

    def grid(self, satellites: Array, times: Array) -> Array:
        return shadow.depth(satellites[:, self.satellite], self.sky.sun(times)[:, None, :])

    def at(self, row: Index, time: Array) -> Array:
        return shadow.depth(self.sky.positions_at(self.satellite[row], time), self.sky.sun(time))
