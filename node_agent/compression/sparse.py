"""What sparsifiers have in common: how dense they are, and how the values that they send are written."""

from __future__ import annotations

import torch
from torch import Tensor

from node_agent.compression import indices
from node_agent.compression.base import Coder, Layer, StepContext
from node_agent.compression.basis import SET_HEAD, Tiles
from node_agent.compression.tiles import Tiling
from node_agent.compression.values import Coding, Floats, Levels, Shares

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LEVELS = {
    "int8": Levels(127, bucket=256, norm="max", stochastic=False),
    "int4": Levels(7, bucket=256, norm="max", stochastic=False),
}


class Sparsifier(Coder):
    """A method says which entries, by its `basis`; the settings say how many, and how each is written."""

    def density(self, context: StepContext) -> float:
        """Of this step: the settings' own, unless a wrapper has chosen another."""
        density: float = self.settings.density if context.density is None else context.density  # type: ignore[attr-defined]
        return density

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        written: str = self.settings.values  # type: ignore[attr-defined]
        if written in LEVELS:
            return LEVELS[written]
        if self.reduction == "aligned" and written != "float32":
            return Shares(DTYPES[written], context.world_size)
        return Floats(DTYPES[written])

    def most(self, layer: Layer, context: StepContext) -> int:
        """Entries of the layer that are sent at most."""
        return max(1, int(self.density(context) * layer.numel))

    def bound(self, layer: Layer, context: StepContext) -> int:
        return tiles_bound(Tiling.of(layer.shape), self.most(layer, context), self.coding(layer, EMPTY, context))


EMPTY = torch.empty(0)


def tiles_bound(tiling: Tiling, count: int, coding: Coding, entries: int | None = None) -> int:
    """Bytes that at most `count` tiles of together at most `entries` entries (None: of any size) never exceed: basis,
    coding and coordinates."""
    entries = min(count * tiling.largest if entries is None else entries, tiling.entries)
    indexed = max(
        indices.largest_size(fewer, tiling.tiles) for fewer in {min(count, tiling.tiles), min(count, tiling.tiles - 1)}
    )
    return len(tiling.write()) + SET_HEAD.size + indexed + len(coding.write()) + coding.size(entries)


SPARSE = 0.01
"""density that is expected where a threshold decides: it is chosen so that little exceeds it"""


def entries_expected(layer: Layer, density: float, coding: Coding) -> int:
    """Bytes of about so many of the layer's entries."""
    return tiles_bound(Tiling.of(layer.shape), max(1, int(density * layer.numel)), coding)


def entries(layer: Layer, chosen: Tensor) -> Tiles:
    """The basis of these entries, ascending positions in the flattened layer."""
    return Tiles(Tiling.of(layer.shape), chosen)
