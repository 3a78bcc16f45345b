"""Deep Gradient Compression (Lin et al., ICLR 2018)."""

from __future__ import annotations

from node_agent.compression.base import Layer, StepContext
from node_agent.compression.topk import TopK


class DGC(TopK):
    """The K = max(1, round(density * d)) entries of largest |v| of each layer of d entries; ties to the lower index.

    v is the gradient after clipping and momentum correction, accumulated (`momentum.py`: of the layers that are
    compressed; those sent dense are left to the optimiser), and the density falls over
    the warm-up (`warmup.py`). The selection is exact: it takes the place of the threshold from a sample that the
    authors correct by selecting again among what exceeds it, which serves speed and sends a number near K.
    """

    def most(self, layer: Layer, context: StepContext) -> int:
        return max(1, round(self.density(context) * layer.numel))
