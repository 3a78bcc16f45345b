"""The neighbourhood statistical indicator: how much the entries of a layer's matrix M say beside their neighbours.

Of each p x p tile, or of the window around each entry, the mean mu and the standard deviation sd, of M where the
indicator is signed and of |M| elsewhere; plus(mu, sd) = a mu + b sd, and eps = 1e-3 mean(sd) + 1e-12 over the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from node_agent.compression import neighbourhoods
from node_agent.compression.neighbourhoods import Block
from node_agent.compression.scale import unit
from node_agent.compression.tiles import Tiling

Plus = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Indicator:
    formula: Callable[[Tensor, Tensor, Tensor, float, Plus], Tensor]
    tiled: bool = False
    signed: bool = False
    degree: int = 1
    """in M: 0 for what does not tell large gradients from small ones"""


INDICATORS = {
    "tile_mean_std": Indicator(lambda x, mu, sd, eps, plus: plus(mu, sd), tiled=True),
    "tile_absmean_std": Indicator(lambda x, mu, sd, eps, plus: plus(mu.abs(), sd), tiled=True, signed=True),
    "zscore": Indicator(lambda x, mu, sd, eps, plus: (x - mu).abs() / (sd + eps), signed=True, degree=0),
    "mag_x_stat": Indicator(lambda x, mu, sd, eps, plus: x * plus(mu, sd), degree=2),
    "contrast": Indicator(lambda x, mu, sd, eps, plus: x / (plus(mu, sd) + eps), degree=0),
    "std": Indicator(lambda x, mu, sd, eps, plus: sd, signed=True),
    "absmean_plus_std": Indicator(lambda x, mu, sd, eps, plus: plus(mu.abs(), sd), signed=True),
    "mean_plus_std": Indicator(lambda x, mu, sd, eps, plus: plus(mu, sd)),
    "snr": Indicator(lambda x, mu, sd, eps, plus: mu / (sd + eps), degree=0),
    "abs": Indicator(lambda x, mu, sd, eps, plus: x, tiled=True),  # tiles of one entry
}


@dataclass(frozen=True)
class Scored:
    """A layer's indicator, of each tile or entry in the matrix's order."""

    scores: Tensor
    """times `scale`, so that they stay within float32"""
    scale: float
    importance: float
    """the mean indicator of the layer or, where that has no size, the mean of plus(|mu|, sd)"""


def score(kind: str, layer: Tensor, tiling: Tiling, side: int, weights: tuple[float, float], out: Tensor) -> Scored:
    """The indicator of a contiguous float32 layer on the CPU, one of `INDICATORS`, in the first places of `out`.

    `tiling` has the tiles, or for windows of `side` those of one entry each."""
    scored = _score(kind, layer, tiling, side, weights, out, 1.0)
    if 2.0**-40 < scored.importance < 2.0**36:  # no square has left the range of float32, nor lost its digits
        return scored
    return _score(kind, layer, tiling, side, weights, out, unit(layer))


def _score(
    kind: str, layer: Tensor, tiling: Tiling, side: int, weights: tuple[float, float], out: Tensor, scale: float
) -> Scored:
    indicator, scores = INDICATORS[kind], out[: tiling.tiles]
    factor = 1.0 if indicator.tiled else scale**indicator.degree

    def blocks() -> Iterator[Block]:
        if indicator.tiled:
            return neighbourhoods.tiles(layer, tiling, indicator.signed, scale)
        return neighbourhoods.windows(layer, tiling, side, indicator.signed)

    def mean(of: Callable[[Block], Tensor]) -> float:
        return sum(float(of(block).sum()) for block in blocks()) / len(scores)

    def plus(mu: Tensor, sd: Tensor) -> Tensor:
        return (weights[0] * mu).add_(sd, alpha=weights[1])

    def written(block: Block) -> Tensor:
        found = indicator.formula(block.x, block.mean, block.deviation, eps, plus)
        torch.mul(found, factor, out=scores.view(tiling.grid)[block.rows])
        return found if indicator.degree else plus(block.mean.abs(), block.deviation)

    eps = 1e-3 * mean(lambda block: block.deviation) + 1e-12 if indicator.degree == 0 else 0.0
    importance = mean(written)
    return Scored(scores, scale**indicator.degree, importance * factor / scale**indicator.degree)
