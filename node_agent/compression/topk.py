"""Top-k sparsification (Aji and Heafield, EMNLP 2017; Stich et al., NeurIPS 2018)."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Layer, StepContext
from node_agent.compression.basis import Basis
from node_agent.compression.selection import largest
from node_agent.compression.sparse import Sparsifier, entries


class TopK(Sparsifier):
    """The K = max(1, int(density * d)) entries of largest |a| of each layer of d entries; ties to the lower index."""

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        return entries(layer, largest(gradient.reshape(-1), self.most(layer, context), magnitude=True))
