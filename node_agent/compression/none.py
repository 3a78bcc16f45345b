"""No compression: the mean of float32 gradients by one ring all-reduce (Patarasuk and Yuan, JPDC 69(2), 2009)."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Coded, Coder, Layer, StepContext
from node_agent.compression.basis import Basis
from node_agent.compression.settings import CompressorSettings


class Dense(Coder):
    """ghat = (1/N) sum_k g_k"""

    reduction = "aligned"

    def __init__(self, settings: CompressorSettings, layers: list[Layer]) -> None:
        super().__init__(layers)

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return True

    def say(self, layer: Layer, basis: Basis, values: Tensor, shared: bool, context: StepContext) -> Coded:
        # Nothing changes the gradient before it is on its way: it need not be copied.
        return super().say(layer, basis, values, False, context)
