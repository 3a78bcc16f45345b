"""Gradients in half precision (Micikevicius et al., Mixed Precision Training, ICLR 2018), summed in half precision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from node_agent.compression.base import Compressor, Exchanged, Layer, Payload, Rounds, StepContext
from node_agent.compression.settings import FP16Settings
from node_agent.compression.views import flatten, unflatten


class FP16(Compressor):
    """ghat = sum_k half(clamp(g_k / N, -h, h))

    A sum of N halves must not overflow. Halves count up to 2047 * 32 = 65504, and every multiple of 32 up to there is
    one: with h = 32 * floor(2047 / N) the partial sums of saturated entries are exact and end within range, and, as
    rounding is monotone, those of any other entries do too. Entries of magnitude below 2**-25 N become zero.
    """

    def __init__(self, settings: FP16Settings, layers: Sequence[Layer]) -> None:
        super().__init__(layers)

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return True

    def exchange(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        largest = 32 * (2047 // context.world_size)
        if not largest:
            raise ValueError(f"fp16: found {context.world_size} nodes, a sum of halves allows at most 2047")
        halves = flatten(gradients).div_(context.world_size).clamp_(-largest, largest).half()
        own = halves.float().mul_(context.world_size)
        total = yield Payload.aligned(halves)
        return Exchanged(mean=unflatten(total.float(), gradients), own=unflatten(own, gradients))
