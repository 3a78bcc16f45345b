"""Gradients in half precision (Micikevicius et al., Mixed Precision Training, ICLR 2018), summed in half precision."""

from __future__ import annotations

import torch
from torch import Tensor

from node_agent.compression.base import Coder, Layer, StepContext
from node_agent.compression.values import Coding, Shares


class FP16(Coder):
    """ghat = sum_k half(clamp(g_k / N, -h, h)), h as in `Shares`"""

    reduction = "aligned"
    dtype = torch.float16

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return True

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Shares(self.dtype, context.world_size)
