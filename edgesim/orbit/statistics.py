"""The extremes of a quantity within windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgesim.orbit.earth import Array, Index
from edgesim.orbit.windows import At, Windows

AT_ONCE = 2**18
FEWEST = 17
"""samples of a window, however short"""


def extremes(windows: Windows, at: At, step: float) -> tuple[Array, Array]:
    """Least and greatest value within each window, (W,), sampled every `step` (s) or more densely.

    Extrema between samples are those of the parabola through three of them.
    """
    least, greatest = np.empty(len(windows)), np.empty(len(windows))
    for window, values in _sampled(windows, at, step):
        low, high = _vertices(values, -1.0), _vertices(values, 1.0)
        least[window], greatest[window] = low, high
    return least, greatest


def _sampled(windows: Windows, at: At, step: float) -> Iterator[tuple[Index, Array]]:
    """Windows of the same number of samples together: their numbers (w,), and the values (w, n)."""
    needed = np.maximum(FEWEST, np.ceil((windows.end - windows.start) / step).astype(np.intp) + 1)
    # Few different numbers, so that numpy has many windows at a time.
    counts = FEWEST * 2 ** np.ceil(np.log2(needed / FEWEST)).astype(np.intp)
    for count in np.unique(counts):
        alike = np.flatnonzero(counts == count)
        for some in np.array_split(alike, max(1, -(-alike.size * int(count) // AT_ONCE))):
            share = np.linspace(0.0, 1.0, int(count))
            time = windows.start[some, None] + share * (windows.end - windows.start)[some, None]
            row = np.repeat(windows.row[some], int(count))
            yield some, at(row, time.ravel()).reshape(time.shape)


def _vertices(values: Array, sign: float) -> Array:
    """Greatest value (sign 1) or least (-1) of each row of equally spaced samples."""
    values = sign * values
    every = np.arange(len(values))
    place = np.argmax(values, axis=1)
    inner = np.clip(place, 1, values.shape[1] - 2)
    left, centre, right = values[every, inner - 1], values[every, inner], values[every, inner + 1]
    bend = left - 2 * centre + right
    within = (place == inner) & (bend < 0)
    rise = np.where(within, (left - right) ** 2 / np.where(within, -8 * bend, 1.0), 0.0)
    extreme: Array = sign * (values[every, place] + rise)
    return extreme
