"""Sparsifiers whose layers have densities of their own, which follow what the layers turned out to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from node_agent.compression import density
from node_agent.compression.base import Coded, Layer, Rounds, StepContext
from node_agent.compression.settings import NSISettings
from node_agent.compression.sparse import Sparsifier

T = TypeVar("T")

STATE = ("importance", "first", "observed", "sampled", "samples")


class Layerwise(Sparsifier):
    """With S_l <- beta S_l + (1 - beta) I_l, I_l being the layer's importance in a step, the density r_l of a layer by
    the rule

        uniform            is the same in every layer
        proportional       goes with S_l
        relative_change    goes with S_l / S_l(t0), t0 being the first step after warm-up
        global_threshold   is what one threshold over the scores of all layers gives, as these were in the step before

    A step's densities depend on the steps before it alone, so it makes no difference in which groups its layers are
    exchanged; until enough is known they are uniform. They are each node's own, for its messages tell what they hold.
    """

    settings: NSISettings

    def __init__(self, settings: NSISettings, layers: Sequence[Layer]) -> None:
        super().__init__(settings, layers)
        self.step = -1
        self.rates: dict[str, float] = {}  # r_l of this step
        self.importance: dict[str, float] = {}  # S_l after the step before
        self.first: dict[str, float] = {}  # S_l(t0)
        self.observed: dict[str, float] = {}  # I_l of this step
        self.sampled: dict[str, Tensor] = {}  # scores of the step before, at density.SHARES
        self.samples: dict[str, Tensor] = {}  # and of this one

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        if context.step != self.step:
            self.advance(context.step)
        if not self.rates:
            self.rates = self.densities(context)
        return super().compress(names, gradients, context)

    def most(self, layer: Layer, context: StepContext) -> int:
        """K_l = max(1, round(r_l n_l)) of this step."""
        return max(1, round(self.rates[layer.name] * layer.numel))

    def highest(self, layer: Layer, context: StepContext) -> int:
        """What K_l never exceeds."""
        factor = {"uniform": 1.0, "global_threshold": np.inf}.get(self.settings.layer_rule, 4.0)
        return max(1, round(min(1.0, factor * self.density(context)) * layer.numel))

    def advance(self, step: int) -> None:
        beta = self.settings.smoothing
        for name, observed in self.observed.items():
            self.importance[name] = beta * self.importance.get(name, observed) + (1 - beta) * observed
        self.observed, self.rates = {}, {}
        self.sampled, self.samples = self.samples, {}
        if step >= self.settings.warmup_steps and not self.first:
            self.first = dict(self.importance)
        self.step = step

    def densities(self, context: StepContext) -> dict[str, float]:
        """This step's r_l of every layer."""
        rate, rule = self.density(context), self.settings.layer_rule
        sizes = [layer.numel for layer in self.layers.values()]

        def known(of: Mapping[str, T]) -> list[T]:
            return [of[name] for name in self.layers] if of.keys() == self.layers.keys() else []

        s, first, sampled = known(self.importance), known(self.first), known(self.sampled)
        if rule == "proportional" and s:
            rates = density.proportional(rate, s, sizes)
        elif rule == "relative_change" and first:
            rates = density.relative_change(rate, s, first)
        elif rule == "global_threshold" and sampled:
            rates = density.common_threshold(rate, [one.numpy() for one in sampled], sizes)
        else:
            rates = np.full(len(sizes), rate)
        return dict(zip(self.layers, rates.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step} | {part: dict(getattr(self, part)) for part in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.rates = state["step"], {}
        for part in STATE:
            setattr(self, part, dict(state[part]))
