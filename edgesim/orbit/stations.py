"""Ground stations on the turning ellipsoid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from skyfield.api import wgs84

from edgesim.orbit.earth import Array, Index
from edgesim.orbit.epoch import Epoch, turned


@dataclass(frozen=True)
class Stations:
    """Fields are (G,): geodetic coordinates on WGS 84 (rad, m), and the least elevation at which a station works."""

    latitude: Array
    longitude: Array
    altitude: Array
    mask: Array

    def __len__(self) -> int:
        return len(self.latitude)

    @cached_property
    def fixed(self) -> Array:
        """Places on the Earth, (3, G), m."""
        place = wgs84.latlon(np.degrees(self.latitude), np.degrees(self.longitude), self.altitude)
        return np.asarray(place.itrs_xyz.m, dtype=np.float64).reshape(3, len(self))

    @cached_property
    def up(self) -> Array:
        """Verticals on the Earth, (3, G)."""
        level = np.cos(self.latitude)
        return np.stack([level * np.cos(self.longitude), level * np.sin(self.longitude), np.sin(self.latitude)])

    def positions_at(self, index: Index, times: Array, epoch: Epoch) -> tuple[Array, Array]:
        """Places (m) and verticals of stations by their number, each at a time (s) of its own (both broadcast), in the
        satellites' frame: (3, …) each."""
        angle = epoch.sidereal(times)
        return turned(self.fixed[:, index], angle), turned(self.up[:, index], angle)
