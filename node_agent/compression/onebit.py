"""1-bit SGD (Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014), with one pair of means a layer."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Coder, Layer, StepContext
from node_agent.compression.values import Coding, Signs


class OneBit(Coder):
    """For each layer a

        a_i -> mean of the a_j >= 0   where a_i >= 0
               mean of the a_j < 0    elsewhere

    the two values that bring the squared error to its least for this threshold. (The paper has a pair for each column
    of a matrix.)
    """

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Signs.two_means(values)
