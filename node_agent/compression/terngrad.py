"""TernGrad (Wen et al., TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning, NeurIPS 2017,
sections 3 and 4)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Coder, Layer, StepContext
from node_agent.compression.basis import Basis
from node_agent.compression.settings import TernGradSettings
from node_agent.compression.values import Coding, Levels


class TernGrad(Coder):
    """For a layer g of d entries

        f_i = max(-c sigma, min(g_i, c sigma)),   sigma = ||g||_2 / sqrt(d)
        f_i -> m sign(f_i) b_i,   m = max_j |f_j|,   b_i = 1 with probability |f_i| / m, else 0

    so that the expectation is f_i. The deviation sigma is taken about zero, as the clipping is: about the mean, that of
    a layer whose entries are all alike would be zero, and nothing of it left. Each node has its own m: the paper's
    scaler sharing, the largest m of all nodes, would take a round and serve a parameter server's ternary sums.
    """

    settings: TernGradSettings

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Levels(1, 0, "max", stochastic=True)

    def say(self, layer: Layer, basis: Basis, values: Tensor, context: StepContext) -> Coded:
        if self.settings.clip is not None:
            sigma = float(torch.linalg.vector_norm(values, dtype=torch.float64)) / sqrt(max(layer.numel, 1))
            limit = min(self.settings.clip * sigma, torch.finfo(values.dtype).max)
            values = values.clamp(-limit, limit)
        return super().say(layer, basis, values, context)
