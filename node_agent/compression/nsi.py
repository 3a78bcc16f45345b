"""Sparsification by the neighbourhood statistical indicator, NSI, of RS-DGC (arXiv 2312.17530; IEEE TGRS 2024, doi
10.1109/TGRS.2024.3394501).

The full text was not at hand: this is a reconstruction from the abstract, with tiles of a layer's kernel matrix as
neighbourhoods and the schedule of Deep Gradient Compression (Lin et al., ICLR 2018) as warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Layer, Rounds, StepContext
from node_agent.compression.basis import Basis, Tiles
from node_agent.compression.density import proportional
from node_agent.compression.selection import largest
from node_agent.compression.settings import NSISettings
from node_agent.compression.sparse import EMPTY, Sparsifier, tiles_bound
from node_agent.compression.tiles import Tiling


class NSI(Sparsifier):
    """For each p x p tile T of a layer's matrix M:

        NSI(T) = mean_T |M| + std_T |M|

    The tiles of largest NSI are sent whole (ties to the lower index): the fewest that hold at least
    K_l = max(1, round(r_l n_l)) values, which they exceed by less than one tile.

    The densities r_l are each node's own, for its messages tell what they hold. Over the warm-up they are the
    schedule's. With the rule `uniform` they are the same in every layer; with `proportional` they follow
    S_l <- beta S_l + (1 - beta) I_l, I_l being the mean NSI of the layer's tiles. A step's densities depend on the
    steps before it alone, so it makes no difference in which groups its layers are exchanged; in the first step they
    are uniform.
    """

    settings: NSISettings

    def __init__(self, settings: NSISettings, layers: Sequence[Layer]) -> None:
        super().__init__(settings, layers)
        self.tilings = {layer.name: Tiling.of(layer.shape, settings.neighbourhood, "kernels") for layer in layers}
        self.step = -1
        self.importance: dict[str, float] = {}  # S_l after the last step
        self.observed: dict[str, float] = {}  # I_l of this step

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        if context.step != self.step:
            self.advance(context.step)
        return super().compress(names, gradients, context)

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        tiling = self.tilings[layer.name]
        mean, deviation = tiling.moments(tiling.matrix(gradient))
        self.observed[layer.name] = float(mean.double().mean() + deviation.double().mean())
        chosen = reach(mean + deviation, tiling, self.budget(layer, context))
        return Tiles(tiling, chosen.numpy())

    def budget(self, layer: Layer, context: StepContext) -> int:
        """K_l of this step."""
        return max(1, round(self.densities(context)[layer.name] * layer.numel))

    def bound(self, layer: Layer, context: StepContext) -> int:
        tiling, rate = self.tilings[layer.name], self.density(context)
        if self.settings.layer_rule != "uniform":
            rate = min(1.0, 4 * rate)
        tiles = -(-max(1, round(rate * layer.numel)) // tiling.smallest) + 1
        return tiles_bound(tiling, tiles, self.coding(layer, EMPTY, context))

    def advance(self, step: int) -> None:
        beta = self.settings.smoothing
        for name, observed in self.observed.items():
            self.importance[name] = beta * self.importance.get(name, observed) + (1 - beta) * observed
        self.observed = {}
        self.step = step

    def densities(self, context: StepContext) -> dict[str, float]:
        """This step's r_l of every layer."""
        density = self.density(context)
        if self.settings.layer_rule == "uniform" or len(self.importance) < len(self.layers):
            return dict.fromkeys(self.layers, density)
        importance = [self.importance[name] for name in self.layers]
        rates = proportional(density, importance, [layer.numel for layer in self.layers.values()])
        return dict(zip(self.layers, rates.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "importance": dict(self.importance), "observed": dict(self.observed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for unknown in (state["importance"].keys() | state["observed"].keys()) - self.layers.keys():
            raise ValueError(f"NSI: found a state for layer {unknown}, known are {sorted(self.layers)}")
        self.step = state["step"]
        self.importance, self.observed = dict(state["importance"]), dict(state["observed"])


def reach(scores: Tensor, tiling: Tiling, budget: int) -> Tensor:
    """The fewest tiles of largest score that hold `budget` entries, ascending."""
    if budget >= tiling.entries:
        return torch.arange(tiling.tiles)
    sizes, count, missing = tiling.sizes(), 0, budget
    while missing > 0:  # smaller tiles at the border may make another pass necessary, never one tile too many
        count += -(-missing // tiling.largest)
        tiles = largest(scores, count)
        missing = budget - int(sizes[tiles].sum())
    return tiles
