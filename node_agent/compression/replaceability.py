"""By which rows of a layer's matrix are replaceable: d_i of each row a_i, the smallest the most replaceable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from node_agent.compression.scale import in_range

CHUNK = 2**17
"""entries that are looked at in one go, so that what is made of them stays in the cache"""


def replaceability(selector: str, a: Tensor) -> Tensor:
    """d of each row, float32, by one of `SELECTORS`."""
    return in_range(SELECTORS[selector], a)


def norm(a: Tensor) -> Tensor:
    """d_i = ||a_i||_2"""
    d: Tensor = torch.linalg.vector_norm(a, dim=1)
    return d


def centroid(a: Tensor) -> Tensor:
    """d_i = ||a_i - c||_2,   c = (1/m) sum_i a_i"""
    return distances(a, a.mean(dim=0))


def geometric_median(a: Tensor) -> Tensor:
    """d_i = ||a_i - c||_2,   c = argmin_c sum_i ||a_i - c||_2 by ten of Weiszfeld's steps from the centroid"""
    c = a.mean(dim=0)
    for _ in range(10):
        c = weiszfeld(a, c)
    return distances(a, c)


def weiszfeld(a: Tensor, c: Tensor) -> Tensor:
    """The next estimate of the geometric median,

        T = (sum_i a_i / d_i) / (sum_i 1 / d_i)   over rows with d_i = ||a_i - c|| > 0
        c <- T + min(1, eta / r) (c - T),   r = ||T - c|| sum_i 1 / d_i

    with eta the number of rows that equal c: there Weiszfeld's own step is not defined (Vardi and Zhang, PNAS 97(4),
    2000).
    """
    d = distances(a, c)
    apart = d > 0
    if not bool(apart.any()):
        return c
    nearest = d[apart].min()
    weights = torch.where(apart, nearest / d, 0)
    total = weights.sum()
    t = torch.mv(a.t(), weights / total)
    equal = len(d) - int(apart.sum())
    r = float(torch.linalg.vector_norm(t - c) * total / nearest)
    return torch.lerp(t, c, min(1.0, equal / r) if r > 0 else 1.0)


def fpgm(a: Tensor) -> Tensor:
    """d_i = sum_j ||a_i - a_j||_2 (He et al., Filter Pruning via Geometric Median, CVPR 2019)

    By ||x - y||^2 = x.x + y.y - 2 x.y in float64, of rows less their mean; what is within its rounding is a distance of
    0. O(m^2 n).
    """
    mean = a.mean(dim=0, dtype=torch.float64)
    d = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    parts = list(range(0, len(a), 256))
    for i in parts:
        x = a[i : i + 256].double() - mean
        xx = x.square().sum(1)
        for j in parts[i // 256 :]:
            y = x if j == i else a[j : j + 256].double() - mean
            sizes = xx[:, None] + y.square().sum(1)
            squares = torch.addmm(sizes, x, y.t(), alpha=-2)
            between = squares.masked_fill_(squares < 2.0**-42 * sizes, 0).sqrt_()
            d[i : i + 256] += between.sum(1)
            if j > i:
                d[j : j + 256] += between.sum(0)
    return d.float()


def distances(a: Tensor, c: Tensor) -> Tensor:
    """||a_i - c||_2 of each row."""
    d = a.new_empty(len(a))
    step = max(1, CHUNK // max(1, a.shape[1])) if a.device.type == "cpu" else len(a)
    scratch = a.new_empty(min(step, len(a)), a.shape[1])
    for start in range(0, len(a), step):
        part = a[start : start + step]
        apart = torch.sub(part, c, out=scratch[: len(part)])
        torch.linalg.vector_norm(apart, dim=1, out=d[start : start + step])
    return d


SELECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "centroid": centroid,
    "fpgm": fpgm,
    "geometric_median": geometric_median,
    "norm": norm,
}
