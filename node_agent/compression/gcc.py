"""GCC, gradient compression via centroid (IEEE TNNLS 36(8), 2025, doi 10.1109/TNNLS.2024.3517535).

The full text was not at hand: this is a reconstruction from the abstract and from filter pruning via geometric
median (He et al., CVPR 2019), with rows of the gradient matrix as units and a mask shared by all nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from node_agent.compression import indices
from node_agent.compression.base import Coded, Coder, Layer, Round, Rounds, StepContext
from node_agent.compression.basis import SET_HEAD, Rows
from node_agent.compression.selection import largest
from node_agent.compression.settings import GCCSettings
from node_agent.compression.values import Floats
from node_agent.compression.views import flatten, rows, unflatten

MINIMUM_ROWS = 8


class GCC(Coder):
    """For a layer a in R^{m x n} and rho = 1 - density:

        c = (1/m) sum_i a_i,   d_i = ||a_i - c||_2
        K = the m - round(rho m) rows of largest sum over nodes of d_i; ties to the lower index, at least one row
        f = mean of the rows outside K
        every node says a_i, i in K, and f; decoded: a_i -> a_i for i in K, f elsewhere

    As all nodes keep the same rows, averaging commutes with the fill: the result is this method, with this mask,
    applied to the averaged gradient. `round` takes halves to the even neighbour. Layers of which no row is dropped
    have neither scores nor fill and are exactly dense.
    """

    def __init__(self, settings: GCCSettings, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.settings = settings
        self.reduction = settings.reduction

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return super().takes(layer) and layer.shape[0] >= MINIMUM_ROWS

    def kept_rows(self, layer: Layer, context: StepContext) -> int:
        density = self.settings.density if context.density is None else context.density
        m = layer.shape[0]
        return max(1, m - round((1 - density) * m))

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        layers = [self.layers[name] for name in names]
        counts = [self.kept_rows(layer, context) for layer in layers]
        kept = [torch.arange(layer.shape[0]) for layer in layers]
        scored = [i for i, layer in enumerate(layers) if counts[i] < layer.shape[0]]
        if scored:
            scores = [distance_to_centroid(rows(gradients[i])) for i in scored]
            total = yield Round.aligned(flatten(scores))
            for i, score in zip(scored, unflatten(total, scores), strict=True):
                kept[i] = largest(score, counts[i])
        bases = [Rows(layer.shape, k.numpy(), self.settings.fill) for layer, k in zip(layers, kept, strict=True)]
        return [self.code(*one, context) for one in zip(layers, gradients, bases, strict=True)]

    def bound(self, layer: Layer, context: StepContext) -> int:
        m, kept = layer.shape[0], self.kept_rows(layer, context)
        width = layer.numel // m
        return (
            1 + SET_HEAD.size + indices.largest_size(kept, m) + len(Floats().write()) + 4 * (kept + (kept < m)) * width
        )


def distance_to_centroid(a: Tensor) -> Tensor:
    """d_i = ||a_i - c||_2, one for each row."""
    distances: Tensor = torch.linalg.vector_norm(a - a.mean(dim=0), dim=1)
    return distances
