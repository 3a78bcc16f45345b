"""PowerSGD (Vogels et al., PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization, NeurIPS
2019, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.base import Coded, Coder, GradientError, Layer, Round, Rounds, StepContext, copied
from node_agent.compression.basis import Columns
from node_agent.compression.settings import PowerSGDSettings
from node_agent.compression.values import Floats
from node_agent.compression.views import flatten, rows, unflatten

NEGLIGIBLE = 2.0**-24
"""of a column's length: what is left of it is no more than its own rounding"""


class PowerSGD(Coder):
    """For a layer M_k in R^{m x n} of node k, and Q in R^{n x r} the sum of the step before:

        P = orthonormal columns of sum_k M_k Q      (the first round)
        Q = sum_k M_k^T P                           (coordinates in the basis P)
        ghat = (1/N) P Q^T

    All nodes have the same P, so averaging commutes with the projection: the result is that of one node with the
    averaged gradient, and exact where that is of rank r. Q is made orthonormal before it is used, which changes no more
    than rounding. At first, and where a column of Q is zero, as after a gradient that was, it is drawn from a normal
    distribution, the same on all nodes. r is at most m and n; layers that P and Q would not make smaller are dense.
    Every node refuses a sum of either round that float32 cannot hold.
    """

    reduction = "aligned"
    settings: PowerSGDSettings

    def __init__(self, settings: PowerSGDSettings, layers: Sequence[Layer]) -> None:
        super().__init__(settings, layers)
        self.factors: dict[str, Tensor] = {}  # Q of the step before

    def rank(self, layer: Layer) -> int:
        """Of the layer's approximation; 0: it is dense."""
        m, n = _sides(layer)
        r = min(self.settings.rank, m, n)
        return r if r * (m + n) < m * n else 0

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        layers = [self.layers[name] for name in names]
        bases = [self.basis(*one, context) for one in zip(layers, gradients, strict=True)]
        low = [i for i, layer in enumerate(layers) if self.rank(layer)]
        if low:
            products = [rows(gradients[i]) @ self.start(layers[i], context).to(gradients[i].device) for i in low]
            total = yield Round.aligned(flatten(products).cpu(), sum(product.numel() for product in products))
            for i, product in zip(low, unflatten(total, products), strict=True):
                _refuse_unless_finite(layers[i], "M Q", product)
                bases[i] = Columns(layers[i].shape, orthonormal(product))
        coded = self.code(layers, gradients, bases, context)
        if context.world_size == 1:  # what one's own node says is all that there is to be heard
            for one in coded:
                self.hear(one)
        return coded

    def start(self, layer: Layer, context: StepContext) -> Tensor:
        """Orthonormal Q to begin the step with."""
        shape = (_sides(layer)[1], self.rank(layer))
        q = orthonormal(self.factors[layer.name]) if layer.name in self.factors else torch.zeros(shape)
        if missing := [j for j in range(shape[1]) if not q[:, j].any()]:
            drawn = context.generator(layer, shared=True).standard_normal((shape[0], len(missing)))
            q[:, missing] = torch.from_numpy(drawn).float()
            q = orthonormal(q)
        return q

    def hear(self, total: Coded) -> None:
        if not isinstance(total.basis, Columns):
            return
        values = total.coding.decode(total.octets, total.basis.size)
        _refuse_unless_finite(total.layer, "M^T P", values)
        if self.settings.warm_start:
            self.factors[total.layer.name] = values.view(total.basis.p.shape[1], -1).t()

    def bound(self, layer: Layer, context: StepContext) -> int:
        m, n = _sides(layer)
        r = self.rank(layer)
        return len(Floats().write()) + (Columns.HEAD.size + 4 * r * (m + n) if r else 4 * layer.numel)

    def state_dict(self) -> dict[str, Any]:
        return {"factors": copied(self.factors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factors = copied(state["factors"])


def _refuse_unless_finite(layer: Layer, product: str, total: Tensor) -> None:
    """Raises GradientError, on every node, as all have the same sum."""
    if not bool(total.isfinite().all()):
        raise GradientError(f"layer {layer.name}: {product}, summed over the nodes, is beyond float32")


def _sides(layer: Layer) -> tuple[int, int]:
    """Rows and columns of the layer's matrix."""
    m = layer.shape[0] if layer.shape else 1
    return m, layer.numel // max(m, 1)


def orthonormal(a: Tensor) -> Tensor:
    """The columns of a matrix made orthonormal by the modified Gram-Schmidt process; zero where one depends on those
    before it. The same bits on every machine: all is entry by entry, in float64 and in this order. Float32."""
    a = a.double()
    lengths = _total(a * a).sqrt().tolist()
    for j, length in enumerate(lengths):
        column = a[:, j]
        left = sqrt(_total(column * column).item())
        if left <= NEGLIGIBLE * length:
            column.zero_()
            continue
        column /= left
        rest = a[:, j + 1 :]
        rest -= column[:, None] * _total(column[:, None] * rest)
    return a.float()


def _total(a: Tensor) -> Tensor:
    """Sum over the first dimension, by halves: additions of entries alone."""
    while len(a) > 1:
        half = len(a) // 2
        odd = a[2 * half :]
        a = a[:half] + a[half : 2 * half]
        a[: len(odd)] += odd
    return a[0]
