"""signSGD with majority vote (Bernstein et al., ICML 2018; ICLR 2019), and Signum, the same of a momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Coder, Layer, Rounds, StepContext, copied
from node_agent.compression.settings import SignSGDSettings
from node_agent.compression.values import Coding, Signs


class SignSGD(Coder):
    """With beta = `momentum`, zero at first:

        m_k <- beta m_k + (1 - beta) g_k;   every node says sign(m_k);   ghat = sign(sum_k sign(m_k))

    of magnitude 1 whatever the gradients' is, in every tensor of the model. A node's zero, of either sign, counts
    as positive, for there is but one bit to say it; where the nodes tie, ghat is zero.
    """

    settings: SignSGDSettings

    def __init__(self, settings: SignSGDSettings, layers: Sequence[Layer]) -> None:
        super().__init__(settings, layers)
        self.momentum: dict[str, Tensor] = {}

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return True

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        if self.settings.momentum:
            gradients = [self.averaged(name, gradient) for name, gradient in zip(names, gradients, strict=True)]
        return super().compress(names, gradients, context)

    def averaged(self, name: str, gradient: Tensor) -> Tensor:
        if name not in self.momentum:
            self.momentum[name] = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        beta = self.settings.momentum
        return self.momentum[name].mul_(beta).add_(gradient, alpha=1 - beta)

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Signs(-1, 1)

    def average(self, layer: Layer, total: Tensor, world_size: int) -> None:
        total.sign_()

    def state_dict(self) -> dict[str, Any]:
        return {"momentum": copied(self.momentum)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.momentum = copied(state["momentum"])
