"""Walker constellations: equal circular orbits, evenly spread.

J. G. Walker, Satellite constellations, Journal of the British Interplanetary Society 37, 1984. His i: T/P/F
stands for an inclination, all satellites, planes, and phases that differ by 360° F / T from plane to plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgesim.orbit.circular import CircularOrbits
from edgesim.orbit.earth import MEAN_RADIUS

Pair = tuple[int, int]


@dataclass(frozen=True)
class Walker:
    """One shell; angles in rad. Satellite `slot` of plane `plane` has the number plane * satellites + slot."""

    altitude: float
    """m above the mean radius"""
    inclination: float
    planes: int
    satellites: int
    """of each plane"""
    phasing: int = 0
    """Walker's F, 0 to planes - 1"""
    star: bool = False
    """planes over half a turn, so that all ascend on one side (star), not over a whole one (delta)"""
    ascension: float = 0.0
    """right ascension of the first plane's ascending node at the epoch"""
    spacing: float | None = None
    """angle between neighbours of a plane; None: evenly all round"""

    @property
    def radius(self) -> float:
        """m from the Earth's centre"""
        return MEAN_RADIUS + self.altitude

    @property
    def angle(self) -> float:
        """Between neighbours of a plane."""
        return 2 * math.pi / self.satellites if self.spacing is None else self.spacing

    def orbits(self) -> CircularOrbits:
        """In the order of the satellites' numbers."""
        plane, slot = np.divmod(np.arange(self.planes * self.satellites), self.satellites)
        turn = math.pi if self.star else 2 * math.pi
        shift = 2 * math.pi * self.phasing / (self.planes * self.satellites)
        same = np.ones(len(plane))
        return CircularOrbits(
            radius=self.radius * same,
            inclination=self.inclination * same,
            ascension=self.ascension + turn / self.planes * plane,
            latitude=self.angle * slot + shift * plane,
        )

    def grid(self) -> list[Pair]:
        """The links of the "+grid", each once: to the next in the plane, and to the same slot of the next plane.

        Across the last plane's seam the slots are shifted by the phasing, as the orbits are; a star has no links there,
        where planes fly against one another.
        """
        planes, slots = range(self.planes), range(self.satellites)
        rounds = self.satellites > 2 and self.spacing is None
        pairs = [
            (self._number(plane, slot), self._number(plane, slot + 1))
            for plane in planes
            for slot in slots
            if rounds or slot + 1 < self.satellites
        ]
        closed = self.planes > 2 and not self.star and self.spacing is None
        for plane in planes if closed else planes[:-1]:
            seam = self.phasing if plane + 1 == self.planes else 0
            pairs += [
                (self._number(plane, slot), self._number((plane + 1) % self.planes, slot + seam)) for slot in slots
            ]
        return pairs

    def _number(self, plane: int, slot: int) -> int:
        return plane * self.satellites + slot % self.satellites


def chord_height(radius: float, angle: float) -> float:
    """Least height (m) over the mean sphere of the line between two points of a circular orbit (m) an angle apart."""
    return radius * math.cos(angle / 2) - MEAN_RADIUS


def widest_angle(radius: float, clearance: float) -> float | None:
    """The largest angle (rad) between two satellites of a plane whose line stays `clearance` (m) above the mean sphere;
    None where the orbit itself does not."""
    cos = (MEAN_RADIUS + clearance) / radius
    return 2 * math.acos(cos) if cos < 1 else None


def fewest_satellites(radius: float, clearance: float) -> int | None:
    """Of an evenly filled plane whose neighbours see each other over the limb; None: no number does."""
    angle = widest_angle(radius, clearance)
    return None if angle is None else math.ceil(2 * math.pi / angle - 1e-12)
