"""AdaComp: adaptive residual gradient compression (Chen et al., AAAI 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from node_agent.compression.base import Coded, Coder, Layer, Rounds, StepContext
from node_agent.compression.feedback import ErrorFeedback
from node_agent.compression.selection import CHUNK
from node_agent.compression.settings import AdaCompSettings
from node_agent.compression.sparse import SPARSE, entries, entries_expected, tiles_bound
from node_agent.compression.tiles import Tiling
from node_agent.compression.values import Signs


class AdaComp(ErrorFeedback):
    """Error feedback that decides by the newest gradient g and the accumulated one. For each layer, flattened and cut
    into bins of L_T entries (the last may be smaller):

        G = e + g,   H = G + c g
        sent    the entries with |H_i| >= max |G_j| over their bin and G_i != 0
        said    s sign(G_i),   s = mean over the layer's bins of max |G_j|
        e       <- G - what was said

    What is sent adapts to the layer: at least the largest of each bin, and with it what another gradient like this one
    would make as large. The paper has c = 1 (`soft`), L_T = 50 for convolutions and 500 for other layers.
    """

    def __init__(self, settings: AdaCompSettings, layers: Sequence[Layer]) -> None:
        super().__init__(Coder(settings, layers))
        self.settings = settings

    def bin(self, layer: Layer) -> int:
        """L_T"""
        return self.settings.bin_convolution if len(layer.shape) > 2 else self.settings.bin_linear

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        coded = [self.compressed(self.layers[name], g, context) for name, g in zip(names, gradients, strict=True)]
        return coded
        yield  # a generator that has nothing to agree on

    def compressed(self, layer: Layer, gradient: Tensor, context: StepContext) -> Coded:
        accumulated = self.accumulate(layer.name, gradient, context)
        chosen, scale = select(accumulated.view(-1), gradient.reshape(-1), self.bin(layer), self.settings.soft)
        basis, coding = entries(layer, chosen), Signs(-scale, scale)
        octets = coding.encode(basis.coordinates(accumulated).cpu())
        said = Coded(layer, basis, coding, octets, "private")
        self.take_out(said)
        return said

    def bound(self, layer: Layer, context: StepContext) -> int:
        return tiles_bound(Tiling.of(layer.shape), layer.numel, Signs(-1, 1))

    def expected(self, layer: Layer, context: StepContext) -> int:
        return entries_expected(layer, SPARSE, Signs(-1, 1))


def select(accumulated: Tensor, newest: Tensor, length: int, soft: float) -> tuple[Tensor, float]:
    """Positions, ascending, of the entries that are sent, and the mean of the bins' largest magnitudes."""
    found, largest = [], []
    for start, stop, width in _bins(len(accumulated), length):
        a, g = accumulated[start:stop].view(-1, width), newest[start:stop].view(-1, width)
        most = torch.maximum(a.amax(dim=1), a.amin(dim=1).neg_())
        reached = torch.add(a, g, alpha=soft).abs_() >= most[:, None]
        found.append(np.flatnonzero(reached.cpu().numpy()) + start)
        largest.append(most)
    chosen = torch.from_numpy(np.concatenate(found)).to(accumulated.device)
    return chosen[accumulated[chosen] != 0], float(torch.cat(largest).mean(dtype=torch.float64))


def _bins(count: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Start, stop and width of matrices of one bin a row, few enough of them to stay in the cache."""
    whole = count // length * length
    step = max(1, CHUNK // length) * length
    for start in range(0, whole, step):
        yield start, min(start + step, whole), length
    if whole < count:
        yield whole, count, count - whole
