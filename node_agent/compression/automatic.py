"""A density that follows the link: as much is sent as hides behind computing.

An exchange of density r takes T(r) = a + b r: delays, and bytes over the rate of the slowest link. With C the time that
a step computes, T = C is approached by

    r <- clamp(r C / T(r), lowest, highest)

a fixed-point iteration that converges where a < C (its derivative at the solution is a / C). C and T are medians over
the steps since the last change, as the nodes measured them; C is that of the node that computes longest, for which the
others wait, and T that of the node that waited least for others. The nodes exchange both in one all-reduce every so
many steps, and choose the same density. During a warm-up, whose density is another one, nothing is observed and nothing
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Layer, Method, Round, Rounds, StepContext, Wrapper
from node_agent.compression.density import warm_up
from node_agent.compression.settings import AutomaticDensity

INTERVAL = 5
"""steps between changes"""
MOST = 4.0
"""factor of one change, either way"""


class LinkAware(Wrapper):
    """Any method that has a density, which may begin with a warm-up. `observe` is to be told of every step; the first
    steps have the density given."""

    def __init__(self, method: Method, density: float, bounds: AutomaticDensity, warmup_steps: int = 0) -> None:
        super().__init__(method)
        self.bounds = bounds
        self.warmup_steps = warmup_steps
        self.density = self.within(density)
        self.step = -1
        self.observed: list[tuple[float, float]] = []

    def observe(self, computing: float, exchanging: float) -> None:
        """What a step took this node, s: its own computing, and the exchange from its first round to its last."""
        if self.step >= self.warmup_steps:
            self.observed.append((computing, exchanging))

    @property
    def used(self) -> float:
        """The density of the latest step."""
        return warm_up(self.density, max(self.step, 0), self.warmup_steps)

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        if context.step != self.step:
            self.step = context.step
            if self.chooses(context):
                yield from self.choose(context)
        return (yield from self.method.compress(names, gradients, replace(context, density=self.density)))

    def chooses(self, context: StepContext) -> bool:
        return context.step > self.warmup_steps and context.step % INTERVAL == 0

    def choose(self, context: StepContext) -> Rounds[None]:
        """Agree on the next steps' density."""
        table = torch.zeros(context.world_size, 2)
        if self.observed:
            table[context.rank] = torch.tensor([median(column) for column in zip(*self.observed, strict=True)])
        self.observed = []
        total = yield Round.aligned(table.view(-1))
        table = total.view(-1, 2)
        computing, exchanging = float(table[:, 0].max()), float(table[:, 1].min())
        if computing > 0 and exchanging > 0:
            change = min(max(computing / exchanging, 1 / MOST), MOST)
            self.density = self.within(self.density * change)

    def within(self, density: float) -> float:
        return min(max(density, self.bounds.lowest), self.bounds.highest)

    def bound(self, layer: Layer, context: StepContext) -> int:
        may_grow = context.step != self.step and self.chooses(context)
        density = self.within(MOST * self.density) if may_grow else self.density
        return self.method.bound(layer, replace(context, density=density))

    def expected(self, layer: Layer, context: StepContext) -> int:
        return self.method.expected(layer, replace(context, density=self.density))

    def state_dict(self) -> dict[str, Any]:
        own = {"density": self.density, "step": self.step, "observed": list(self.observed)}
        return {"automatic": own, "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        own = state["automatic"]
        self.density, self.step, self.observed = own["density"], own["step"], list(own["observed"])
