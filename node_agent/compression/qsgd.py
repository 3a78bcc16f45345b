"""QSGD (Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding, NeurIPS 2017,
section 3.1), with levels in whole digits instead of Elias codes."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Coder, Layer, StepContext
from node_agent.compression.settings import QSGDSettings
from node_agent.compression.values import Coding, Levels


class QSGD(Coder):
    """For each bucket v of a layer's entries, with s levels:

        v_i -> ||v||_2 sign(v_i) xi_i / s,   xi_i = floor(s |v_i| / ||v||_2 + u_i),   u_i uniform in [0, 1)

    so that the expectation is v_i. Every node and step draws its own u.
    """

    settings: QSGDSettings

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Levels(self.settings.levels, self.settings.bucket, "l2", stochastic=True)
