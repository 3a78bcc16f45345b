"""Adam (Kingma and Ba, ICLR 2015, algorithm 1) that comes to the same bits on every kind of CPU.

Replicas add the same averaged gradients, so their parameters stay the same only if their steps round alike. Those of
`torch.optim.Adam` need not: a compiler may or may not make one rounding of a product and the sum that it goes into, and
the square root of a vectorised mathematics library is not always the nearest float32. Here every kernel is one
operation, or one after another that cannot be fused, which IEEE 754 rounds in one way only: sums, products, quotients
and square roots.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim.optimizer import ParamsT


class Adam(optim.Optimizer):
    """For gradients g_1 … g_t of a parameter, with sums in place of the moments that they are multiples of,

    s_t = beta1 s_{t-1} + g_t          m_t = (1 - beta1) s_t / (1 - beta1^t)
    q_t = beta2 q_{t-1} + g_t^2        v_t = (1 - beta2) q_t / (1 - beta2^t)
    x_t = x_{t-1} - lr m_t / (sqrt(v_t) + eps)
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient. Returns what `closure`, called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step(parameter, parameter.grad, self.state[parameter], group["lr"], group["betas"], group["eps"])
        return loss


def _step(x: Tensor, g: Tensor, state: dict[str, Any], lr: float, betas: tuple[float, float], eps: float) -> None:
    if not state:
        state.update(step=0, first=torch.zeros_like(x), second=torch.zeros_like(x))
    state["step"] += 1
    beta1, beta2 = betas
    t, s, q = state["step"], state["first"], state["second"]
    s.mul_(beta1).add_(g)
    q.mul_(beta2).add_(g.square())
    # The reciprocal root is a root and a quotient on every CPU; the root alone is left to libraries on some.
    scale = torch.tensor(sqrt((1 - beta2) / (1 - beta2**t)), dtype=x.dtype, device=x.device)
    x.addcdiv_(s, torch.div(scale, q.rsqrt()).add_(eps), value=-lr * (1 - beta1) / (1 - beta1**t))
