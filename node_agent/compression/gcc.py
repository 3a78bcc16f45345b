"""GCC, gradient compression via centroid (IEEE TNNLS 36(8), 2025, doi 10.1109/TNNLS.2024.3517535).

The full text was not at hand: this is a reconstruction from the abstract and from filter pruning via geometric
median (He et al., CVPR 2019), with rows of the gradient matrix as units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from node_agent.compression import indices
from node_agent.compression.base import Coded, Coder, Layer, Round, Rounds, StepContext
from node_agent.compression.basis import SET_HEAD, Rows, sample
from node_agent.compression.octets import PayloadError, tensor_of
from node_agent.compression.replaceability import replaceability
from node_agent.compression.scale import LARGEST
from node_agent.compression.selection import largest
from node_agent.compression.settings import GCCSettings
from node_agent.compression.values import Floats
from node_agent.compression.views import flatten, rows, unflatten

MINIMUM_ROWS = 8


class GCC(Coder):
    """For a layer a in R^{m x n} and rho = 1 - density:

        c = (1/m) sum_i a_i,   d_i = ||a_i - c||_2      or another of the selectors, see `replaceability`
        K = the m - round(rho m) rows of largest d_i; ties to the lower index, at least one row
        f = mean of the rows outside K                  or c, or none
        the node says a_i, i in K, and f; decoded: a_i -> a_i for i in K, f elsewhere

    Whose d_i: with the mask `scores` their sum over the nodes, with `leader` those of node step mod N, with `local`
    each node's own. In the first two cases all nodes keep the same rows, so averaging commutes with the fill: the
    result is this method, with this mask, applied to the averaged gradient. The selector `random` draws K, the same on
    all nodes.

    `round` takes halves to the even neighbour. Layers of which no row is dropped have neither scores nor fill and are
    exactly dense.
    """

    settings: GCCSettings

    def __init__(self, settings: GCCSettings, layers: Sequence[Layer]) -> None:
        super().__init__(settings, layers)
        self.reduction = settings.reduction

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return super().takes(layer) and layer.shape[0] >= MINIMUM_ROWS

    def kept_rows(self, layer: Layer, context: StepContext) -> int:
        density = self.settings.density if context.density is None else context.density
        m = layer.shape[0]
        return max(1, m - round((1 - density) * m))

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        given = {self.layers[name]: gradient for name, gradient in zip(names, gradients, strict=True)}
        dense = [layer for layer in given if self.kept_rows(layer, context) == layer.shape[0]]
        bases = {layer: self.keeping(layer, torch.arange(layer.shape[0])) for layer in dense}
        sparse = {layer: gradient for layer, gradient in given.items() if layer not in bases}
        if sparse:
            chosen = yield from self.choose(sparse, context)
            bases |= zip(sparse, chosen, strict=True)
        return self.code(list(given), list(given.values()), [bases[layer] for layer in given], context)

    def choose(self, given: dict[Layer, Tensor], context: StepContext) -> Rounds[list[Rows]]:
        """The rows that this node keeps of these layers."""
        if self.settings.selector == "random":
            return [self.drawn(layer, context) for layer in given]
        if self.settings.mask == "leader":
            return (yield from self.follow(given, context))
        scores = [replaceability(self.settings.selector, rows(gradient)) for gradient in given.values()]
        if self.settings.mask == "scores":
            share = flatten(scores).clamp_(max=LARGEST / 2 / context.world_size)  # so that their sum is finite
            scores = unflatten((yield Round.aligned(share)), scores)
        return [self.best(layer, score, context) for layer, score in zip(given, scores, strict=True)]

    def follow(self, given: dict[Layer, Tensor], context: StepContext) -> Rounds[list[Rows]]:
        """Those that the leader says."""
        leader, octets = context.step % context.world_size, b""
        if context.rank == leader:
            for layer, gradient in given.items():
                score = replaceability(self.settings.selector, rows(gradient))
                octets += self.best(layer, score, context).write()
        messages = yield Round.private(tensor_of(octets))
        told, bases = messages[leader].numpy().data, []
        for layer in given:
            basis, length = Rows.read(told, layer.shape)
            if (len(basis.kept), basis.fill) != (self.kept_rows(layer, context), self.settings.fill):
                raise PayloadError(
                    f"mask of rank {leader}: layer {layer.name}: found {len(basis.kept)} rows kept, fill {basis.fill}; "
                    f"expected {self.kept_rows(layer, context)}, {self.settings.fill}"
                )
            bases.append(basis)
            told = told[length:]
        if len(told):
            raise PayloadError(f"mask of rank {leader}: found {len(told)} bytes behind the last layer")
        return bases

    def drawn(self, layer: Layer, context: StepContext) -> Rows:
        seed = context.generator(layer, shared=True).bit_generator.random_raw()
        return self.keeping(layer, torch.from_numpy(sample(layer.shape[0], self.kept_rows(layer, context), seed)))

    def best(self, layer: Layer, scores: Tensor, context: StepContext) -> Rows:
        return self.keeping(layer, largest(scores, self.kept_rows(layer, context)))

    def keeping(self, layer: Layer, kept: Tensor) -> Rows:
        return Rows(layer.shape, kept.cpu().numpy(), self.settings.fill)

    def bound(self, layer: Layer, context: StepContext) -> int:
        m, kept = layer.shape[0], self.kept_rows(layer, context)
        said = kept + (kept < m and self.settings.fill != "zero")
        head = 1 + SET_HEAD.size + indices.largest_size(kept, m) + len(Floats().write())
        return head + Floats().size(said * (layer.numel // m))
