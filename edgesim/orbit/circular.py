"""Circular orbits whose planes turn as the Earth's oblateness turns them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgesim.orbit.earth import EQUATORIAL_RADIUS, GRAVITATION, OBLATENESS, Array, Index


def period(radius: float) -> float:
    """Time of a revolution of Kepler's at a radius (m) from the Earth's centre, s."""
    return float(2 * np.pi * np.sqrt(radius**3 / GRAVITATION))


@dataclass(frozen=True)
class CircularOrbits:
    """Satellites on circular orbits: Kepler's motion and the secular rates of J2.

    A shell is a design, kept in shape by its satellites' thrusters: mean elements, no drag, no periodic terms (10 km at
    550 km). SGP4 would need elements made up to that end, and would let neighbours of one plane drift apart; it is used
    for satellites that have elements. Rates: Vallado, Fundamentals of Astrodynamics, 4th ed., section 9.6, for e = 0.

    All fields are (S,), in m and rad.
    """

    radius: Array
    inclination: Array
    ascension: Array
    """right ascension of the ascending node at the epoch"""
    latitude: Array
    """argument of latitude, the angle from the ascending node, at the epoch"""

    def __len__(self) -> int:
        return len(self.radius)

    def only(self, index: Index) -> CircularOrbits:
        """Some of the satellites, by their numbers."""
        return CircularOrbits(self.radius[index], self.inclination[index], self.ascension[index], self.latitude[index])

    @property
    def _rates(self) -> tuple[Array, Array]:
        """Of the argument of latitude and of the node, rad/s."""
        motion = np.sqrt(GRAVITATION / self.radius**3)
        pull = 0.75 * motion * OBLATENESS * (EQUATORIAL_RADIUS / self.radius) ** 2
        cos = np.cos(self.inclination)
        # Perigee (5 cos² - 1) and mean anomaly (3 cos² - 1) together.
        return motion + pull * (8 * cos**2 - 2), -2 * pull * cos

    def positions(self, times: Array) -> Array:
        """Of every satellite at every time: (3, S, T), m, in the inertial frame of the epoch's equator."""
        every = np.arange(len(self))[:, None]
        return self.positions_at(every, times[None, :])

    def positions_at(self, index: Index, times: Array) -> Array:
        """Of satellites by their number, each at a time of its own (both broadcast): (3, …), m."""
        motion, drift = self._rates
        u = self.latitude[index] + motion[index] * times
        node = self.ascension[index] + drift[index] * times
        along, across = self.radius[index] * np.cos(u), self.radius[index] * np.sin(u)
        level = across * np.cos(self.inclination)[index]
        cos, sin = np.cos(node), np.sin(node)
        return np.stack(
            [along * cos - level * sin, along * sin + level * cos, across * np.sin(self.inclination)[index]]
        )
