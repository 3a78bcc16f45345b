"""Different methods for different layers of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from node_agent.compression.base import Coded, Layer, Method, Rounds, StepContext


class Partition(Method):
    """Every layer by the one of `parts` that has it."""

    def __init__(self, parts: Sequence[Method]) -> None:
        super().__init__([layer for part in parts for layer in part.layers.values()])
        self.parts = list(parts)
        self.part_of = {name: part for part in parts for name in part.layers}

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        said: dict[str, Coded] = {}
        for part in self.parts:
            mine = {name: g for name, g in zip(names, gradients, strict=True) if name in part.layers}
            if mine:
                coded = yield from part.compress(list(mine), list(mine.values()), context)
                said |= zip(mine, coded, strict=True)
        return [said[name] for name in names]

    def bound(self, layer: Layer, context: StepContext) -> int:
        return self.part_of[layer.name].bound(layer, context)

    def expected(self, layer: Layer, context: StepContext) -> int:
        return self.part_of[layer.name].expected(layer, context)

    @property
    def corrected(self) -> frozenset[str]:
        return frozenset().union(*(part.corrected for part in self.parts))

    def hear(self, total: Coded) -> None:
        self.part_of[total.layer.name].hear(total)

    def average(self, layer: Layer, total: Tensor, world_size: int) -> None:
        self.part_of[layer.name].average(layer, total, world_size)

    def state_dict(self) -> dict[str, Any]:
        return {str(place): part.state_dict() for place, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for place, part in enumerate(self.parts):
            part.load_state_dict(state[str(place)])
