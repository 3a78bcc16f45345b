"""Adam's step, beside its definition and beside what IEEE 754 makes of it."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn

from node_agent.optimiser import Adam


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_two_steps_are_those_of_a_hand() -> None:
    x, still, untouched = parameter(1.0, 1.0), parameter(2.0), parameter(3.0)
    adam = Adam([x, still, untouched], lr=0.1)
    x.grad, still.grad = torch.tensor([0.5, -3.0]), torch.zeros(1)
    adam.step()
    assert x.tolist() == pytest.approx([0.9, 1.1])  # at first m / sqrt(v) is the sign of the gradient
    x.grad = torch.tensor([-0.5, 0.0])
    adam.step()
    # m = (0.1 * 0.9 * 0.5 - 0.1 * 0.5) / (1 - 0.81), v = 0.25
    # m = 0.1 * 0.9 * -3 / (1 - 0.81), v = 0.001 * 0.999 * 9 / (1 - 0.998001)
    first, second = -0.005 / 0.19 / 0.5, -0.27 / 0.19 / sqrt(0.008991 / 0.001999)
    assert x.tolist() == pytest.approx([0.9 - 0.1 * first, 1.1 - 0.1 * second])
    assert (still.item(), untouched.item()) == (2.0, 3.0)
    adam.zero_grad()
    assert x.grad is None


def test_without_a_first_moment_the_latest_gradient_alone_gives_the_direction() -> None:
    x = parameter(0.0)
    adam = Adam([x], lr=1.0, betas=(0.0, 0.999))
    for gradient in (4.0, -3.0):
        before = x.item()
        x.grad = torch.tensor([gradient])
        adam.step()
    assert x.item() - before == pytest.approx(3 / sqrt((0.999 * 16 + 9) / 1.999))


@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_every_operation_is_rounded_as_ieee_754_demands(beta1: float) -> None:
    # NumPy's sums, products, quotients and square roots are those of the processor, one rounding each.
    single, rate, beta2 = np.float32, 1e-3, 0.999
    generator = np.random.default_rng(1)
    start = generator.standard_normal(10_007).astype(single)  # the last seven fill no vector
    x, tracked = start.copy(), nn.Parameter(torch.from_numpy(start.copy()))
    s, q = np.zeros_like(x), np.zeros_like(x)
    adam = Adam([tracked], rate, (beta1, beta2))
    for t in range(1, 6):
        g = (generator.standard_normal(x.size) * 10.0 ** generator.integers(-12, 3, x.size)).astype(single)
        s, q = s * single(beta1) + g, q * single(beta2) + g * g
        divisor = single(sqrt((1 - beta2) / (1 - beta2**t))) / (single(1) / np.sqrt(q)) + single(1e-8)
        x = x + single(-rate * (1 - beta1) / (1 - beta1**t)) * s / divisor
        tracked.grad = torch.from_numpy(g)
        adam.step()
    assert tracked.detach().numpy().tobytes() == x.tobytes()
