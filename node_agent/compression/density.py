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


def relative_change(density: float, importance: Sequence[float], at_first: Sequence[float]) -> NDArray[np.float64]:
    """Densities that follow each layer's importance S_l since a first step t0, within a factor of four:

    r_l = clamp(density S_l(t) / S_l(t0), density / 4, min(1, 4 density)),   density where S_l(t0) = 0
    """
    s, first = np.asarray(importance, dtype=float), np.asarray(at_first, dtype=float)
    ratio = np.divide(s, first, out=np.ones(len(s)), where=first > 0)
    rates: NDArray[np.float64] = np.clip(density * ratio, density / 4, min(1.0, 4 * density))
    return rates


SHARES = np.geomspace(2.0**-20, 1, 1024)
"""of a layer, at which a sample of its scores is taken: as fine for small densities as for large ones"""


def sample(scores: NDArray[np.float32], most: int = 2**18) -> NDArray[np.float64]:
    """The scores that these shares of the layer reach, by a strided sample of about `most` scores at the most."""
    ordered = np.sort(scores[:: len(scores) // most | 1])[::-1]
    ranks = np.ceil(SHARES * len(ordered)).astype(np.int64)
    reached: NDArray[np.float64] = ordered[ranks - 1].astype(np.float64)
    return reached


def common_threshold(
    density: float, samples: Sequence[NDArray[np.float64]], sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Densities that one threshold over all layers' scores gives, on the budget density sum_l n_l, where `samples` are
    of the layers' scores; equal scores go by the order of the layers."""
    n = np.asarray(sizes, dtype=float)
    held = np.outer(n, np.diff(SHARES, prepend=0)).ravel()
    order = np.argsort(-np.concatenate(samples), kind="stable")
    before = np.cumsum(held[order]) - held[order]
    taken = np.clip(density * n.sum() - before, 0, held[order])
    rates: NDArray[np.float64] = np.bincount(order // len(SHARES), taken, len(n)) / n
    return rates
