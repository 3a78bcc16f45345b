"""Long series reduced to what a figure can show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from edgesim.results import Columns

Floats = NDArray[np.float64]


def blocks(length: int, most: int) -> NDArray[np.intp]:
    """Where each of at most `most` blocks of consecutive rows begins, for `np.add.reduceat`."""
    return np.unique(np.linspace(0, length, min(length, most), endpoint=False).astype(np.intp))


def ends(starts: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """The last row of each block."""
    return np.append(starts[1:], length) - 1


def totals(column: NDArray[Any], starts: NDArray[np.intp]) -> Floats:
    """Sum over each block; empty cells count nothing."""
    result: Floats = np.add.reduceat(np.nan_to_num(column.astype(np.float64)), starts)
    return result


def quotient(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise, NaN where nothing was measured."""
    result: Floats = np.full_like(numerator, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def mean_over_nodes(steps: Columns, column: str) -> tuple[Floats, Floats, Floats]:
    """Of each step, over the nodes that reported it: its number, mean time (s) and mean of `column`."""
    numbers, index = np.unique(steps["step"], return_inverse=True)
    count = np.bincount(index)
    time: Floats = np.bincount(index, steps["time_s"]) / count
    mean: Floats = np.bincount(index, steps[column]) / count
    return numbers.astype(np.float64), time, mean


def smooth(values: Floats) -> Floats:
    """A moving median over a fiftieth of the series: spikes go, steps stay."""
    window = 2 * (len(values) // 100) + 1
    result: Floats = ndimage.median_filter(values, size=window, mode="nearest")
    return result
