"""The range of float32: squares of very large or very small entries leave it, multiples by a power of two need not."""

from __future__ import annotations

from collections.abc import Callable
from math import frexp

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max


def unit(a: Tensor) -> float:
    """A power of two that brings the largest magnitude near 1 (and rounds nothing); 1 where that is not far away."""
    if not a.numel():
        return 1.0
    _, exponent = frexp(max(map(abs, torch.aminmax(a))))
    return 1.0 if abs(exponent) < 40 else 2.0 ** -min(max(exponent, -126), 126)


def in_range(measure: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """measure(a) >= 0, homogeneous of degree one and made of squares, for entries of any size; what exceeds float32 is
    its largest number."""
    found = measure(a)
    if found.numel() and not 2.0**-30 < float(found.max()) < 2.0**60:
        scale = unit(a)
        found = (measure(a * scale) / scale).clamp_(max=LARGEST)
    return found
