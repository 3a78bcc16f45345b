"""Intervals of time during which a smooth quantity is positive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgesim.orbit.earth import Array, Index

At = Callable[[Index, Array], Array]
"""the quantity of rows by their number, each at a time (s) of its own"""

ACCURACY = 1e-4
"""of beginnings and ends, s"""

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Windows:
    """Intervals of many rows, by row and ascending; all fields are (W,)."""

    row: Index
    start: Array
    """s"""
    end: Array

    def __len__(self) -> int:
        return len(self.row)

    def of(self, row: int) -> tuple[Array, Array]:
        """Beginnings and ends of one row's."""
        first, last = np.searchsorted(self.row, [row, row + 1])
        return self.start[first:last], self.end[first:last]


def crossings(samples: Array, times: Array, at: At, last: bool = True) -> tuple[Index, Array]:
    """Rows and times of the sign changes of sampled quantities, each to `ACCURACY`, in no order.

    `samples` is (L, T), at `times` (T,). What rises above zero, or falls below it, between samples only is found
    too, where the quantity is concave, or convex, around its extremum. Unless `last`, changes in the last interval are
    left to who goes on from its beginning.
    """
    positive = samples > 0
    row, column = np.nonzero(positive[:, 1:] != positive[:, :-1])
    if not last:
        row, column = row[column < len(times) - 2], column[column < len(times) - 2]
    rows, lows, highs = [row], [times[column]], [times[column + 1]]
    for sign in (1.0, -1.0):
        row, low, high = _hidden(sign * samples, times)
        peak = _highest(lambda which, when, sign=sign: sign * at(which, when), row, low, high)  # type: ignore[misc]
        through = (at(row, peak) > 0) == (sign > 0)
        rows += [row[through]] * 2
        lows += [low[through], peak[through]]
        highs += [peak[through], high[through]]
    row, low, high = np.concatenate(rows), np.concatenate(lows), np.concatenate(highs)
    return row, _bisected(at, row, low, high)


def _hidden(samples: Array, times: Array) -> tuple[Index, Array, Array]:
    """Rows and brackets of maxima below zero that might reach above it between samples: what is concave stays below its
    chords."""
    left, centre, right = samples[:, :-2], samples[:, 1:-1], samples[:, 2:]
    rise = np.maximum(centre - left, centre - right)
    row, column = np.nonzero((centre <= 0) & (centre > left) & (centre >= right) & (centre + rise > 0))
    return row, times[column], times[column + 2]


def _highest(at: At, row: Index, low: Array, high: Array) -> Array:
    """Golden-section search in each bracket."""
    if not row.size:
        return low
    for _ in range(int(np.ceil(np.log(max(float(np.max(high - low)) / 1e-2, 2)) / -np.log(GOLDEN)))):
        inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = at(row, inner) >= at(row, outer)
        low, high = np.where(left, low, inner), np.where(left, outer, high)
    return (low + high) / 2


def _bisected(at: At, row: Index, low: Array, high: Array) -> Array:
    if not row.size:
        return low
    before = at(row, low) > 0
    for _ in range(int(np.ceil(np.log2(max(float(np.max(high - low)) / ACCURACY, 2))))):
        middle = (low + high) / 2
        same = (at(row, middle) > 0) == before
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return (low + high) / 2


def assemble(row: Index, time: Array, at_start: Index, at_end: Index, duration: float) -> Windows:
    """Windows between sign changes; `at_start` and `at_end` are the rows that are positive at 0 and at `duration`.

    Windows begin and end at whole milliseconds; windows and gaps that are shorter than one are left out.
    """
    row = np.concatenate([row, at_start, at_end])
    time = np.concatenate([time, np.zeros(len(at_start)), np.full(len(at_end), duration)])
    order = np.lexsort((time, row))
    pairs = order.reshape(-1, 2)
    start, end = np.round(time[pairs], 3).T
    kept = end > start
    row, start, end = row[pairs[kept, 0]], start[kept], end[kept]
    begins = np.ones(len(row), dtype=bool)
    begins[1:] = (row[1:] != row[:-1]) | (start[1:] > end[:-1])
    return Windows(row[begins], start[begins], end[np.roll(begins, -1)])
