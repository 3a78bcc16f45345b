"""Signs of what has grown beyond a threshold (Strom, Interspeech 2015)."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Coder, Layer, StepContext
from node_agent.compression.basis import Basis
from node_agent.compression.selection import exceeding
from node_agent.compression.settings import StromSettings
from node_agent.compression.sparse import EMPTY, SPARSE, entries, entries_expected, tiles_bound
from node_agent.compression.tiles import Tiling
from node_agent.compression.values import Coding, Signs


class Strom(Coder):
    """For the entries with |a| > tau:

        said    tau sign(a)

    one bit each beside the index. The residual loses just that, a - tau sign(a), so that an entry much larger than tau
    is said again in the steps that follow.
    """

    settings: StromSettings

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        return entries(layer, exceeding(gradient.reshape(-1), self.settings.threshold))

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Signs(-self.settings.threshold, self.settings.threshold)

    def bound(self, layer: Layer, context: StepContext) -> int:
        return tiles_bound(Tiling.of(layer.shape), layer.numel, self.coding(layer, EMPTY, context))

    def expected(self, layer: Layer, context: StepContext) -> int:
        return entries_expected(layer, SPARSE, self.coding(layer, EMPTY, context))
