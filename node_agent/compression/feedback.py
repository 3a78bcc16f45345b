"""Error feedback: what a compressor leaves unsaid is added to the next step's gradient.

    a = g + e;    exchange a;    e <- a - own(a)

Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019, algorithm 1 (with the learning rate left to the
optimiser).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Compressor, Exchanged, Rounds, StepContext


class ErrorFeedback(Compressor):
    """Any compressor, with a residual of one float32 an entry.

    `own` plus residual equals the accumulated gradient: bit for bit where the method sends entries as they are, to
    one rounding otherwise. The residual changes only when an exchange has come to its end.
    """

    def __init__(self, method: Compressor) -> None:
        super().__init__(list(method.layers.values()))
        self.method = method
        self.residual = {name: torch.zeros(layer.shape) for name, layer in self.layers.items()}

    def exchange(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        accumulated = [gradient + self.residual[name] for name, gradient in zip(names, gradients, strict=True)]
        exchanged: Exchanged = yield from self.method.rounds(names, accumulated, context)
        for name, said, own in zip(names, accumulated, exchanged.own, strict=True):
            torch.sub(said, own, out=self.residual[name])
        return exchanged

    def state_dict(self) -> dict[str, Any]:
        residual = {name: tensor.clone() for name, tensor in self.residual.items()}
        return {"residual": residual, "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        residual = state["residual"]
        found, expected = ({k: tuple(v.shape) for k, v in of.items()} for of in (residual, self.residual))
        if found != expected:
            raise ValueError(f"residuals: found {found}, expected {expected}")
        self.method.load_state_dict(state["method"])
        self.residual = {name: tensor.clone() for name, tensor in residual.items()}
