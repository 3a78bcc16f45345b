"""The Earth's size, gravity and the speed of light."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Bools = NDArray[np.bool_]

GRAVITATION = 3.986004418e14
"""GM, m³/s² (WGS 84)"""

MEAN_RADIUS = 6.371e6
"""m, of the sphere that altitudes of shells, lines of sight and shadows refer to"""

EQUATORIAL_RADIUS = 6.378137e6
"""m (WGS 84)"""

FLATTENING = 1 / 298.257223563
"""of the ellipsoid (WGS 84) on which ground stations stand"""

OBLATENESS = 1.08262668e-3
"""J2 of the gravity field (EGM96)"""

LIGHT = 299_792_458.0
"""speed of light in vacuum, m/s"""


def geodetic(fixed: NDArray[Any]) -> tuple[Array, Array, Array]:
    """Latitude, longitude (rad) and height (m) on the WGS 84 ellipsoid of Earth-fixed points (3, …), m.

    Bowring's closed formula (Survey Review 23, 1976): to a decimetre for satellites in low orbits.
    """
    x, y, z = fixed
    axis = np.hypot(x, y)
    polar = EQUATORIAL_RADIUS * (1 - FLATTENING)
    squared = FLATTENING * (2 - FLATTENING)
    reduced = np.arctan2(z * EQUATORIAL_RADIUS, axis * polar)
    latitude = np.arctan2(
        z + squared / (1 - FLATTENING) ** 2 * polar * np.sin(reduced) ** 3,
        axis - squared * EQUATORIAL_RADIUS * np.cos(reduced) ** 3,
    )
    curvature = EQUATORIAL_RADIUS / np.sqrt(1 - squared * np.sin(latitude) ** 2)
    # Stable at the poles too, where axis / cos(latitude) is not.
    height = axis * np.cos(latitude) + z * np.sin(latitude) - EQUATORIAL_RADIUS**2 / curvature
    return latitude, np.arctan2(y, x), height
