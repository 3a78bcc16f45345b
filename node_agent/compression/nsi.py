"""Sparsification by the neighbourhood statistical indicator, NSI, of RS-DGC (arXiv 2312.17530; IEEE TGRS 2024, doi
10.1109/TGRS.2024.3394501).

The full text was not at hand: this is a reconstruction from the abstract, with neighbourhoods in a layer's kernel
matrix and the schedule of Deep Gradient Compression (Lin et al., ICLR 2018) as warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from node_agent.compression import density
from node_agent.compression.base import Layer, StepContext
from node_agent.compression.basis import Basis, Tiles
from node_agent.compression.indicators import INDICATORS, Scored, score
from node_agent.compression.layerwise import Layerwise
from node_agent.compression.selection import largest
from node_agent.compression.settings import NSISettings
from node_agent.compression.sparse import EMPTY, tiles_bound
from node_agent.compression.tiles import Tiling


class NSI(Layerwise):
    """For each p x p tile T of a layer's matrix M:

        NSI(T) = mean_T |M| + std_T |M|      or another of the `INDICATORS`, also of the window around each entry

    The tiles of largest NSI are sent whole (ties to the lower index): the fewest that hold at least K_l values, which
    they exceed by less than one tile. With windows, K_l entries are sent.

    A layer's importance I_l is its mean NSI; scores that have one threshold for all layers are NSI / RMS_l^alpha.
    """

    def __init__(self, settings: NSISettings, layers: Sequence[Layer]) -> None:
        super().__init__(settings, layers)
        self.tilings = {layer.name: tiling_of(layer, settings) for layer in layers}
        self.scratch = EMPTY

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        tiling, settings = self.tilings[layer.name], self.settings
        if not len(self.scratch):  # kept: new memory costs more than what is written to it
            self.scratch = torch.empty(max(tiling.tiles for tiling in self.tilings.values()))
        gradient = gradient.cpu().contiguous()
        scored = score(settings.kind, gradient, tiling, settings.neighbourhood, settings.weights, self.scratch)
        self.observed[layer.name] = scored.importance
        if settings.layer_rule == "global_threshold":
            self.samples[layer.name] = normalised(scored, gradient, settings.rms_power)
        return Tiles(tiling, reach(scored.scores, tiling, self.most(layer, context)))

    def bound(self, layer: Layer, context: StepContext) -> int:
        return self.size(layer, self.highest(layer, context), context)

    def expected(self, layer: Layer, context: StepContext) -> int:
        """As if all layers had the same density: the rules keep the budget of all of them together."""
        return self.size(layer, max(1, round(self.density(context) * layer.numel)), context)

    def size(self, layer: Layer, budget: int, context: StepContext) -> int:
        """Bytes that are not exceeded with this K_l."""
        tiling, coding = self.tilings[layer.name], self.coding(layer, EMPTY, context)
        less = budget - 1  # what a message holds at most without the last of its tiles: see `reach`
        return tiles_bound(tiling, tiling.fitting(less) + 1, coding, less + tiling.largest)


def tiling_of(layer: Layer, settings: NSISettings) -> Tiling:
    """What is sent or held as one: tiles, or entries."""
    if settings.kind == "abs":
        return Tiling.of(layer.shape, 1, "rows")
    return Tiling.of(layer.shape, settings.neighbourhood if INDICATORS[settings.kind].tiled else 1, settings.view)


def reach(scores: Tensor, tiling: Tiling, budget: int) -> Tensor:
    """The fewest tiles of largest score that hold `budget` entries, ascending."""
    if budget >= tiling.entries:
        return torch.arange(tiling.tiles)
    # Smaller tiles at the border may make more of them necessary, never one too many: among a few more than are needed.
    count = -(-budget // tiling.largest)
    pool = largest(scores, count + count // 16 + 16)
    while True:
        if count > len(pool):
            pool = largest(scores, 2 * count)
        tiles = pool[largest(scores[pool], count)]
        missing = budget - int(tiling.sizes(tiles).sum())
        if missing <= 0:
            return tiles
        count += -(-missing // tiling.largest)


def normalised(scored: Scored, gradient: Tensor, power: float) -> Tensor:
    """The NSI at density.SHARES of a layer, over its RMS to this power."""
    values = density.sample(scored.scores.numpy()) / scored.scale
    rms = float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) / gradient.numel() ** 0.5
    return torch.from_numpy(values / (rms**power or 1.0))
