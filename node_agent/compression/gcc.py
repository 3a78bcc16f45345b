"""GCC, gradient compression via centroid (IEEE TNNLS 36(8), 2025, doi 10.1109/TNNLS.2024.3517535).

The full text was not at hand: this is a reconstruction from the abstract and from filter pruning via geometric
median (He et al., CVPR 2019), with rows of the gradient matrix as units and a mask shared by all nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from node_agent.compression.base import Compressor, Exchanged, Layer, Payload, Rounds, StepContext
from node_agent.compression.selection import largest
from node_agent.compression.settings import GCCSettings
from node_agent.compression.views import flatten, rows, unflatten

MINIMUM_ROWS = 8


class GCC(Compressor):
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
        self.density = settings.density

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return super().takes(layer) and layer.shape[0] >= MINIMUM_ROWS

    def kept_rows(self, m: int) -> int:
        return max(1, m - round((1 - self.density) * m))

    def exchange(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        matrices = [rows(gradient) for gradient in gradients]
        kept = [torch.arange(len(a)) for a in matrices]
        scored = [i for i, a in enumerate(matrices) if self.kept_rows(len(a)) < len(a)]
        if scored:
            scores = [distance_to_centroid(matrices[i]) for i in scored]
            total = yield Payload.aligned(flatten(scores), values=0)
            for i, score in zip(scored, unflatten(total, scores), strict=True):
                kept[i] = largest(score, self.kept_rows(len(score)))

        messages = [encode(a, keep) for a, keep in zip(matrices, kept, strict=True)]
        total = yield Payload.aligned(flatten(messages))
        means = unflatten(total / context.world_size, messages)

        def decoded(parts: Sequence[Tensor]) -> list[Tensor]:
            zipped = zip(parts, kept, gradients, strict=True)
            return [decode(part, keep, len(g)).view(g.shape) for part, keep, g in zipped]

        return Exchanged(mean=decoded(means), own=decoded(messages))


def distance_to_centroid(a: Tensor) -> Tensor:
    """d_i = ||a_i - c||_2, one for each row."""
    distances: Tensor = torch.linalg.vector_norm(a - a.mean(dim=0), dim=1)
    return distances


def encode(a: Tensor, kept: Tensor) -> Tensor:
    """The kept rows, then the mean of the others if there are any."""
    if len(kept) == len(a):
        return a.reshape(-1)
    weights = torch.full((len(a),), 1 / (len(a) - len(kept))).index_fill_(0, kept, 0)
    return torch.cat([a[kept].view(-1), weights @ a])


def decode(message: Tensor, kept: Tensor, m: int) -> Tensor:
    """The m rows that the message stands for."""
    if len(kept) == m:
        return message.view(m, -1)
    parts = message.view(len(kept) + 1, -1)
    return parts[-1].expand(m, -1).clone().index_copy_(0, kept, parts[:-1])
