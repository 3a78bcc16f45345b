"""Sparsification by a threshold (Dutta et al., AAAI 2020)."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Layer, StepContext
from node_agent.compression.basis import Basis
from node_agent.compression.selection import exceeding
from node_agent.compression.settings import ThresholdSettings
from node_agent.compression.sparse import EMPTY, SPARSE, Sparsifier, entries, entries_expected


class Threshold(Sparsifier):
    """The entries with |a| > threshold: as many as there are, none or all."""

    settings: ThresholdSettings

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        return entries(layer, exceeding(gradient.reshape(-1), self.settings.threshold))

    def most(self, layer: Layer, context: StepContext) -> int:
        return layer.numel

    def expected(self, layer: Layer, context: StepContext) -> int:
        return entries_expected(layer, SPARSE, self.coding(layer, EMPTY, context))
