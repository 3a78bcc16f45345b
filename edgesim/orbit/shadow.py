"""The Earth's shadow."""

from __future__ import annotations

import numpy as np

from edgesim.orbit.earth import MEAN_RADIUS, Array
from edgesim.orbit.sight import dot


def depth(satellite: Array, sun: Array) -> Array:
    """How far inside the shadow points (3, …) are, m; outside: negative. `sun` are unit vectors.

    The shadow is a cylinder of the mean radius (Vallado, Fundamentals of Astrodynamics, 4th ed., section 5.3): it ends
    between umbra and penumbra, which a satellite in a low orbit crosses within 10 s.
    """
    behind = np.minimum(dot(satellite, sun), 0.0)
    inside: Array = MEAN_RADIUS - np.sqrt(np.maximum(dot(satellite, satellite) - behind**2, 0.0))
    return inside
