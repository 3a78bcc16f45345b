"""Top-k sparsification (Aji and Heafield, EMNLP 2017; Stich et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from node_agent.compression.base import Layer, StepContext
from node_agent.compression.selection import largest
from node_agent.compression.settings import TopKSettings
from node_agent.compression.sparse import Sparsifier
from node_agent.compression.tiles import Tiling


class TopK(Sparsifier):
    """The K = max(1, int(density * d)) entries of largest |a| of each layer of d entries; ties to the lower index."""

    wire_id = 1

    def __init__(self, settings: TopKSettings, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.density = settings.density

    def tiling(self, layer: Layer) -> Tiling:
        return Tiling(1, layer.numel, side=1)

    def matrix(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(1, -1)

    def restore(self, matrix: Tensor, layer: Layer) -> Tensor:
        return matrix.view(layer.shape)

    def choose(self, names: Sequence[str], matrices: Sequence[Tensor], context: StepContext) -> list[Tensor]:
        return [largest(a.abs().view(-1), max(1, int(self.density * a.numel()))) for a in matrices]
