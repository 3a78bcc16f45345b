"""How dense to send: over the first steps, and in one layer beside the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def warm_up(density: float, step: int, steps: int) -> float:
    """The density of a step (counted from 0) in a fall to its final value over `steps` steps, by four equal stages:

        0.25, 0.0625, max(1/64, 1.5 density), 1/256        none above the one before, none below the final density

    For 0.001 these are the stages of Deep Gradient Compression (Lin et al., ICLR 2018); for 0.02 they are 0.25, 0.0625,
    0.03 and 0.02.
    """
    if step >= steps:
        return density
    stages = (1 / 4, 1 / 16, min(1 / 16, max(1 / 64, 1.5 * density)), 1 / 256)
    return max(density, stages[4 * step // steps])


def proportional(density: float, importance: Sequence[float], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Densities r_l in proportion to the layers' importance S_l >= 0, within a factor of four, on the same budget:

        r_l = clamp(x S_l, density / 4, min(1, 4 density)),   x such that sum_l r_l n_l = density sum_l n_l

    The sum grows with x, linearly between the points where a layer meets a clamp, so x is found exactly.
    """
    s, n = np.asarray(importance, dtype=float), np.asarray(sizes, dtype=float)
    if not s.any():
        return np.full(len(s), density)
    s = np.maximum(s / s.max(), 1e-9)
    low, high = density / 4, min(1.0, 4 * density)
    x = np.sort(np.concatenate([low / s, high / s]))
    budget = np.clip(np.outer(x, s), low, high) @ n
    rates: NDArray[np.float64] = np.clip(np.interp(density * n.sum(), budget, x) * s, low, high)
    return rates
