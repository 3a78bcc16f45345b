"""EF-signSGD (Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019,
algorithm 1), layer by layer and with the learning rate left to the optimiser."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Coder, Layer, StepContext
from node_agent.compression.values import Coding, Signs


class EFSignSGD(Coder):
    """For a layer a of d entries

        a_i -> (||a||_1 / d) sign(a_i)

    in which zero counts as positive.
    """

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Signs.mean_magnitude(values)
