"""ARC-Top-K, an all-reduce compatible top-k (Chen et al., arXiv 2510.26709).

Established, by the abstract and the code released with the paper: the sketch by a normal V that all nodes draw alike
anew in each step, the rows of largest norm of the summed sketch, their values by an all-reduce without indices, and
plain error feedback as one of the memories (the paper's theory has EF21 with momentum). Reconstruction: a convolution
has one row an output here, where that code makes rows of 2 w**2 entries for kernels of width w; and tensors of one
dimension are averaged dense.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from node_agent.compression import indices
from node_agent.compression.base import Coded, Layer, Round, Rounds, StepContext
from node_agent.compression.basis import SET_HEAD, Rows
from node_agent.compression.selection import largest
from node_agent.compression.settings import ARCTopKSettings
from node_agent.compression.sparse import EMPTY, Sparsifier
from node_agent.compression.views import flatten, rows, unflatten


class ARCTopK(Sparsifier):
    """For a layer M in R^{m x n} and a sketch of c columns:

        V in R^{n x c}, independent normal entries, the same on all nodes
        P = M V, summed over the nodes
        K = the max(1, int(density * m)) rows of largest ||P_i||_2; ties to the lower index
        every node says M_i, i in K

    As E ||P_i||^2 is proportional to the squared norm of row i of the averaged M, these are about the rows of the
    largest norm of the average. All nodes keep the same ones, so the result is that selection of the averaged gradient.
    Layers of which all rows are kept are not sketched.
    """

    reduction = "aligned"
    settings: ARCTopKSettings

    def most(self, layer: Layer, context: StepContext) -> int:
        """Rows of the layer that are sent."""
        return max(1, int(self.density(context) * layer.shape[0]))

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        layers = [self.layers[name] for name in names]
        counts = [self.most(layer, context) for layer in layers]
        kept = [torch.arange(layer.shape[0]) for layer in layers]
        sketched = [i for i, layer in enumerate(layers) if counts[i] < layer.shape[0]]
        if sketched:
            sketches = [self.sketch(layers[i], gradients[i], context) for i in sketched]
            total = yield Round.aligned(flatten(sketches))
            for i, sketch in zip(sketched, unflatten(total, sketches), strict=True):
                kept[i] = largest(torch.linalg.vector_norm(sketch, dim=1, dtype=torch.float64), counts[i])
        bases = [Rows(layer.shape, k.cpu().numpy(), "zero") for layer, k in zip(layers, kept, strict=True)]
        return self.code(layers, gradients, bases, context)

    def sketch(self, layer: Layer, gradient: Tensor, context: StepContext) -> Tensor:
        """P, (rows, columns of the sketch), of this node alone."""
        n = layer.numel // layer.shape[0]
        v = context.generator(layer, shared=True).standard_normal((n, self.settings.sketch), dtype="float32")
        # The scale of V is of no account to the choice; this one leaves P in the range of M.
        return rows(gradient) @ torch.from_numpy(v / n).to(gradient.device)

    def bound(self, layer: Layer, context: StepContext) -> int:
        m, kept, coding = layer.shape[0], self.most(layer, context), self.coding(layer, EMPTY, context)
        selection = 1 + SET_HEAD.size + indices.largest_size(kept, m)
        return selection + len(coding.write()) + coding.size(kept * (layer.numel // m))
