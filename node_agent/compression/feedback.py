"""Error feedback: what a compressor leaves unsaid is added to the next step's gradient.

    a = g + e;    say a;    e <- a - what was said

Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019, algorithm 1 (with the learning rate left to the
optimiser).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Method, Rounds, StepContext, Wrapper, copied
from node_agent.compression.scale import LARGEST


class ErrorFeedback(Wrapper):
    """Any method, with a residual of one float32 an entry.

    What is said plus residual equals the accumulated gradient: bit for bit where the method sends entries as they are,
    to one rounding otherwise; what accumulates beyond float32 is cut off at its largest number. An exchange that breaks
    off before the node has spoken leaves all in the residual.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.residual: dict[str, Tensor] = {}
        self.room = torch.empty(0)

    def accumulate(self, name: str, gradient: Tensor, context: StepContext) -> Tensor:
        """The layer's residual, grown by this step's gradient."""
        if name not in self.residual:
            self.residual[name] = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        return self.residual[name].add_(gradient).clamp_(-LARGEST, LARGEST)

    def take_out(self, said: Coded) -> None:
        if said.values > len(self.room):  # kept: new memory costs more than what is written to it
            self.room = torch.empty(said.values)
        said.add_to(self.residual[said.layer.name], -1, self.room)

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        accumulated = [self.accumulate(name, g, context) for name, g in zip(names, gradients, strict=True)]
        coded = yield from self.method.compress(names, accumulated, context)
        for one in coded:
            self.take_out(one)
        return coded

    def state_dict(self) -> dict[str, Any]:
        return {"residual": copied(self.residual), "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        self.residual = copied(state["residual"])


class LowPass(ErrorFeedback):
    """Error feedback whose residual is low-pass filtered (ScaleCom: Chen et al., NeurIPS 2020):

        e <- (1 - beta) e + beta (a - what was said)

    which forgets what one step adds by itself. With beta = 1 it is plain error feedback.
    """

    def __init__(self, method: Method, beta: float) -> None:
        super().__init__(method)
        self.beta = beta

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        coded = yield from super().compress(names, gradients, context)
        for said, gradient in zip(coded, gradients, strict=True):
            # The residual is e + g - said by now, and shall be e + beta (g - said).
            residual = self.residual[said.layer.name].add_(gradient, alpha=self.beta - 1)
            said.add_to(residual, 1 - self.beta)
        return coded
