"""The delay of a link that moves, in steps."""

from __future__ import annotations

import numpy as np

from edgesim.orbit.earth import LIGHT, Array, Index
from edgesim.orbit.search import grid
from edgesim.orbit.windows import At

RESOLUTION = 9
"""decimals of a delay in s"""

Steps = list[tuple[float, float]]


def delays(row: int, start: Array, end: Array, range_at: At, step: float, tolerance: float) -> Steps:
    """(time, delay) pairs, s, ascending: what the propagation delay is from then on.

    Sampled at the beginning of each window and at every multiple of `step` within it; a sample that differs from the
    delay in force by `tolerance` or less changes nothing. The first pair holds from the start. No window, no
    pair.
    """
    if not len(start):
        return []
    ticks = grid(float(end[-1]), step)
    inside = ticks[np.searchsorted(start, ticks, "right") > np.searchsorted(end, ticks, "right")]
    times = np.union1d(inside, start)
    rows: Index = np.full(times.shape, row, dtype=np.intp)
    values = np.round(range_at(rows, times) / LIGHT, RESOLUTION)
    steps = [(float(times[0]), float(values[0]))]
    if np.ptp(values) <= tolerance:
        return steps
    for time, value in zip(times.tolist(), values.tolist(), strict=True):
        if abs(value - steps[-1][1]) > tolerance:
            steps.append((time, value))
    return steps
