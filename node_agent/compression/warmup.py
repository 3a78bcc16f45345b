"""Warm-up: a sparsifier begins dense and becomes sparser (Lin et al., Deep Gradient Compression, ICLR 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from node_agent.compression.base import Coded, Layer, Method, Rounds, StepContext, Wrapper
from node_agent.compression.density import warm_up


class WarmUp(Wrapper):
    """Any method that has a density, which falls to its own value over so many steps."""

    def __init__(self, method: Method, density: float, steps: int) -> None:
        super().__init__(method)
        self.density = density
        self.steps = steps

    def at(self, context: StepContext) -> StepContext:
        density = self.density if context.density is None else context.density
        return replace(context, density=warm_up(density, context.step, self.steps))

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        return self.method.compress(names, gradients, self.at(context))

    def bound(self, layer: Layer, context: StepContext) -> int:
        return self.method.bound(layer, self.at(context))
