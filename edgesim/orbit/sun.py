"""Where the sun stands."""

from __future__ import annotations

import numpy as np

from edgesim.orbit.earth import Array
from edgesim.orbit.epoch import DAY, Epoch

J2000 = 2451545.0
"""Julian date"""


def direction(times: Array, epoch: Epoch) -> Array:
    """Unit vectors from the Earth to the sun at times (s) of any shape: (3, …), in the satellites' frame.

    The Astronomical Almanac's low-precision formula (section C, "Low precision formulas for the sun"): 0.01 degrees
    from 1950 to 2050. UTC stands for the dynamical time, a minute of 0.0007 degrees.
    """
    day, rest = epoch.julian
    days = day - J2000 + rest + times / DAY
    mean = np.radians(280.460 + 0.9856474 * days)
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = mean + np.radians(1.915) * np.sin(anomaly) + np.radians(0.020) * np.sin(2 * anomaly)
    obliquity = np.radians(23.439 - 4e-7 * days)
    across = np.sin(longitude)
    return np.stack([np.cos(longitude), np.cos(obliquity) * across, np.sin(obliquity) * across])
