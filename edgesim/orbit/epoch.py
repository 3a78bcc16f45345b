"""The moment at which the run's clock reads zero: dates, and the angle of the Earth after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
from skyfield.api import load
from skyfield.sgp4lib import theta_GMST1982

from edgesim.orbit.earth import Array

DAY = 86400.0


@dataclass(frozen=True)
class Epoch:
    """Times are s after `utc` (an aware datetime); a leap second within them is not inserted."""

    utc: datetime

    @cached_property
    def julian(self) -> tuple[float, float]:
        """UTC Julian date: whole days and a half, and the rest (days)."""
        date = self.utc.date().toordinal() + 1721424.5
        midnight = self.utc.replace(hour=0, minute=0, second=0, microsecond=0)
        return date, (self.utc - midnight).total_seconds() / DAY

    @cached_property
    def _universal(self) -> tuple[float, float]:
        """UT1 Julian date, from the table of the Earth's rotation that skyfield brings along."""
        moment = load.timescale(builtin=True).from_datetime(self.utc)
        return float(moment.whole), float(moment.ut1_fraction)

    def sidereal(self, times: Array) -> Array:
        """Greenwich mean sidereal time (rad) at times (s) of any shape: what turns the frame of SGP4 (TEME) into one
        fixed to the Earth, polar motion (10 m) apart. Model of 1982 (Vallado, Crawford, Hujsak and Kelso, AIAA
        2006-6753, appendix C)."""
        whole, fraction = self._universal
        angle, _ = theta_GMST1982(whole, fraction + times / DAY)
        return np.asarray(angle, dtype=np.float64)

    def at(self, seconds: float) -> datetime:
        """The date and time so many seconds after the epoch."""
        return self.utc + timedelta(seconds=seconds)


def turned(vectors: Array, angle: Array) -> Array:
    """Vectors (3, …) turned about the Earth's axis by angles (rad) that broadcast with their components."""
    x, y, z = vectors
    cos, sin = np.cos(angle), np.sin(angle)
    east, north = cos * x - sin * y, sin * x + cos * y
    return np.stack([east, north, np.broadcast_to(z, east.shape)])
