"""No compression: the mean of float32 gradients by one ring all-reduce (Patarasuk and Yuan, JPDC 69(2), 2009)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from node_agent.compression.base import Compressor, Exchanged, Layer, Payload, Rounds, StepContext
from node_agent.compression.settings import NoneSettings
from node_agent.compression.views import flatten, unflatten


class Dense(Compressor):
    """ghat = (1/N) sum_k g_k"""

    def __init__(self, settings: NoneSettings, layers: Sequence[Layer]) -> None:
        super().__init__(layers)

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return True

    def exchange(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        total = yield Payload.aligned(flatten(gradients))
        return Exchanged(mean=unflatten(total / context.world_size, gradients), own=list(gradients))
