"""From conditions to the windows during which they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesim.orbit.conditions import Condition, InShadow
from edgesim.orbit.earth import Array, Index
from edgesim.orbit.sky import Sky
from edgesim.orbit.windows import Windows, assemble, crossings

AT_ONCE = 2**17
"""values that are computed together: few enough for the processor's cache, enough for numpy"""

LONGEST_STEP = 60.0
"""between samples of a search, s: a low orbit's horizon and shadow are smooth over a minute"""


def grid(duration: float, step: float) -> Array:
    """0, step, 2 step … and `duration` itself, s."""
    times = np.arange(0.0, duration, step)
    return np.append(times, duration)


@dataclass(frozen=True)
class Found:
    """Windows of a condition, and by how much it was fulfilled at best, (rows,), in its own quantity."""

    windows: Windows
    best: Array


def search(sky: Sky, conditions: Sequence[Condition], duration: float, step: float) -> list[Found]:
    """When each condition holds within 0 … `duration`, sampled every `step` (at most LONGEST_STEP) and then refined.

    Positions are computed once for all conditions. Raises ElementsError where SGP4 has none.
    """
    times = grid(duration, min(step, LONGEST_STEP))
    rows = max(1, sky.satellites, *map(len, conditions))
    columns = max(8, AT_ONCE // rows)
    changes: list[list[tuple[Index, Array]]] = [[] for _ in conditions]
    begin: list[Index] = [np.empty(0, np.intp) for _ in conditions]
    finish: list[Index] = [np.empty(0, np.intp) for _ in conditions]
    best = [np.full(len(condition), -np.inf) for condition in conditions]
    for first in range(0, len(times) - 1, columns):
        # One sample more than the next part begins with: extrema on the border belong to this one.
        part = times[first : first + columns + 2]
        last = first + columns >= len(times) - 1
        satellites = sky.positions(part)
        for i, condition in enumerate(conditions):
            samples = condition.grid(satellites, part)
            if first == 0:
                begin[i] = np.flatnonzero(samples[:, 0] > 0)
            if last:
                finish[i] = np.flatnonzero(samples[:, -1] > 0)
            best[i] = np.maximum(best[i], samples.max(axis=1, initial=-np.inf))
            changes[i].append(crossings(samples, part, condition.at, last))
    found = []
    for i, parts in enumerate(changes):
        row, time = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        found.append(Found(assemble(row, time, begin[i], finish[i], duration), best[i]))
    return found


def eclipses(sky: Sky, duration: float, step: float = LONGEST_STEP) -> Windows:
    """When each satellite (row: its number) is in the Earth's shadow, s after the epoch; see `shadow` for which."""
    return search(sky, [InShadow(sky, np.arange(sky.satellites))], duration, step)[0].windows
