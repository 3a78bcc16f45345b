"""Two points in space: how far apart, and whether the Earth is in between. All on arrays (3, …), m."""

from __future__ import annotations

import numpy as np

from edgesim.orbit.earth import MEAN_RADIUS, Array


def dot(a: Array, b: Array) -> Array:
    product: Array = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


def distance(a: Array, b: Array) -> Array:
    """Range at one and the same moment, m: what the far end moves while light is under way (50 m) is left out."""
    along = b - a
    length: Array = np.sqrt(dot(along, along))
    return length


def line_height(a: Array, b: Array) -> Array:
    """Least height of the straight line between the points over the mean sphere, m; below it: negative."""
    along = b - a
    length, towards = dot(along, along), dot(a, along)
    nearest = np.clip(-towards / np.maximum(length, 1e-9), 0.0, 1.0)
    squared = dot(a, a) + nearest * (2 * towards + nearest * length)
    height: Array = np.sqrt(np.maximum(squared, 0.0)) - MEAN_RADIUS
    return height


def sine_of_elevation(station: Array, up: Array, satellite: Array) -> Array:
    """Of the satellite over the station's horizon, without refraction."""
    along = satellite - station
    sine: Array = dot(along, up) / np.sqrt(dot(along, along))
    return sine
