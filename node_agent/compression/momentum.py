"""Momentum correction and factor masking of Deep Gradient Compression (Lin et al., ICLR 2018, sections 3.1 and 3.2).

    u <- m u + g;   v <- v + u                  or, after Nesterov,   u <- m (u + g);   v <- v + u + g
    say v;          v <- v - what was said;     u <- 0 where an entry was said

so that what waits in the residual v has been subject to momentum as if it had been sent; the optimiser adds none of its
own. An entry that is said in every step thus has no momentum at all: with density 1 no entry has.

Tensors that are sent dense have no velocity here and are left to the optimiser's momentum, where the authors' code
applies its own to them. The gradient may be clipped before: its norm, layer by layer, to clip / sqrt(N).
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Method, StepContext, copied
from node_agent.compression.feedback import ErrorFeedback


class MomentumCorrection(ErrorFeedback):
    """Error feedback over the velocity instead of the gradient."""

    def __init__(self, method: Method, momentum: float, nesterov: bool = False, clip: float | None = None) -> None:
        super().__init__(method)
        self.momentum = momentum
        self.nesterov = nesterov
        self.clip = clip
        self.velocity: dict[str, Tensor] = {}

    def accumulate(self, name: str, gradient: Tensor, context: StepContext) -> Tensor:
        if self.clip is not None:
            norm = torch.linalg.vector_norm(gradient.double())
            gradient = gradient * min(1.0, self.clip / sqrt(context.world_size) / max(float(norm), 1e-300))
        if name not in self.velocity:
            self.velocity[name] = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        u = self.velocity[name]
        if self.nesterov:
            u.add_(gradient).mul_(self.momentum)
            super().accumulate(name, gradient, context)
        else:
            u.mul_(self.momentum).add_(gradient)
        return super().accumulate(name, u, context)

    @property
    def corrected(self) -> frozenset[str]:
        return frozenset(self.layers) if self.momentum else frozenset()

    def take_out(self, said: Coded) -> None:
        super().take_out(said)
        said.basis.erase(self.velocity[said.layer.name])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"velocity": copied(self.velocity)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.velocity = copied(state["velocity"])
