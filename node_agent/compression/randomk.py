"""Random-k sparsification (Stich et al., NeurIPS 2018; unbiased: Wangni et al., NeurIPS 2018)."""

from __future__ import annotations

from torch import Tensor

from node_agent.compression.base import Coded, Layer, StepContext
from node_agent.compression.basis import Basis, Seeded
from node_agent.compression.scale import LARGEST
from node_agent.compression.settings import RandomKSettings
from node_agent.compression.sparse import EMPTY, Sparsifier


class RandomK(Sparsifier):
    """K = max(1, int(density * d)) entries of each layer of d entries, drawn without replacement, every set as likely:

        said    a_i                  with a residual that keeps the others, or
                (d / K) a_i          unbiased: in the mean over the draws, what is said is a

    The draw is a function of the seed, the step and the layer, which all nodes have: no index is sent, and values are
    summed. The result is this method applied to the averaged gradient.
    """

    reduction = "aligned"
    settings: RandomKSettings

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        seed = int(context.generator(layer, shared=True).bit_generator.random_raw())
        return Seeded(layer.shape, seed, self.most(layer, context))

    def say(self, layer: Layer, basis: Basis, values: Tensor, context: StepContext) -> Coded:
        if self.settings.unbiased:
            values = (values * (layer.numel / basis.size)).clamp_(-LARGEST, LARGEST)
        return super().say(layer, basis, values, context)

    def bound(self, layer: Layer, context: StepContext) -> int:
        coding = self.coding(layer, EMPTY, context)
        return Seeded.HEAD.size + len(coding.write()) + coding.size(self.most(layer, context))
