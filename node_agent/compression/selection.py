"""The k largest of many scores, exactly, and those beyond a threshold."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLE = 2**14
CHUNK = 2**16
"""scores that are looked at in one go, so that what is made of them stays in the cache"""


def largest(scores: Tensor, count: int, magnitude: bool = False) -> Tensor:
    """Indices, ascending, of the `count` largest of a 1-D tensor without NaN, or of largest magnitude; of equal ones
    those of lower index.

    On the CPU, a threshold from a strided sample leaves few candidates for an exact partition: a fraction of
    torch.topk's time. On an accelerator torch.topk, whose result has a size known beforehand, does not wait for the
    host; it takes any of equal ones.
    """
    if count >= scores.numel():
        return torch.arange(scores.numel(), device=scores.device)
    if scores.device.type != "cpu":
        return (scores.abs() if magnitude else scores).topk(count, sorted=False).indices.sort().values
    values = scores.numpy()
    candidates = _candidates(values, count, magnitude)
    pool = values[candidates]
    if magnitude:
        np.abs(pool, out=pool)
    threshold = np.partition(pool, len(pool) - count)[len(pool) - count]
    chosen = pool > threshold
    equal = np.flatnonzero(pool == threshold)
    chosen[equal[: count - np.count_nonzero(chosen)]] = True
    return torch.from_numpy(candidates[chosen])


def _candidates(values: NDArray[np.float32], count: int, magnitude: bool) -> NDArray[np.int64]:
    """Ascending indices of at least `count` values, none of them below one that is left out."""
    # An odd stride, so that it does not keep to the columns of a matrix.
    sample = values[:: (len(values) // SAMPLE) | 1]
    if magnitude:
        sample = np.abs(sample)
    expected = count * len(sample) / len(values)
    rank = int(expected + 4 * sqrt(expected) + 4)  # four standard deviations: rarely too few
    if rank < len(sample):
        threshold = np.partition(sample, len(sample) - rank)[len(sample) - rank]
        candidates = at_least(values, threshold, magnitude)
        if len(candidates) >= count:
            return candidates
    return np.arange(len(values))


def at_least(values: NDArray[np.float32], threshold: float, magnitude: bool = False) -> NDArray[np.int64]:
    """Ascending indices of the values, or magnitudes, that reach a threshold."""
    scratch = np.empty(min(CHUNK, len(values)), np.float32)
    found = []
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        if magnitude:
            part = np.abs(part, out=scratch[: len(part)])
        found.append(np.flatnonzero(part >= threshold) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def exceeding(values: Tensor, threshold: float) -> Tensor:
    """Indices, ascending, of the entries of a 1-D tensor whose magnitude is above a threshold (rounded to float32)."""
    if values.device.type != "cpu":
        return (values.abs() > threshold).nonzero().view(-1)
    if threshold >= float(np.finfo(np.float32).max):
        return torch.empty(0, dtype=torch.int64)
    least = np.nextafter(np.float32(threshold), np.float32(np.inf))
    return torch.from_numpy(at_least(values.numpy(), least, magnitude=True))
