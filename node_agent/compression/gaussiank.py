"""Gaussian-k: top-k by the threshold that a normal distribution would have (Shi et al., arXiv 1911.08772)."""

from __future__ import annotations

from math import ceil, floor, log, sqrt
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from node_agent.compression.base import Layer, StepContext
from node_agent.compression.basis import Basis
from node_agent.compression.selection import CHUNK, exceeding, largest
from node_agent.compression.sparse import EMPTY, Sparsifier, entries, entries_expected

STEP = 1.012


class GaussianK(Sparsifier):
    """The entries with |a| > t, for a layer of d entries with mean mu and standard deviation sigma:

        t_0 = |mu| - sigma Phi^-1(density / 2)
        t   = the first of t_0, t_0 / 1.012, t_0 / 1.012**2, ... that 3/4 K entries exceed,  K = max(1, int(density d))

    |mu| instead of mu makes a and -a equal. Steps of 1.012 and the 3/4 are those of Ok-Topk (Li and Hoefler, PPoPP
    2022). Where fewer than 3/4 K entries are not zero, and with density 1, all of these are sent. The number sent
    follows the distribution: it is above K where the tails are heavier than normal ones, and all may be sent where all
    are equally large.
    """

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        a, density = gradient.reshape(-1), self.density(context)
        enough = ceil(0.75 * max(1, int(density * layer.numel)))
        threshold = normal_threshold(a, density) if density < 1 else 0.0
        chosen = exceeding(a, threshold)
        if len(chosen) < enough:
            # The entry of this rank says where the descent would end: no need to count again at every step of it.
            least = float(a[largest(a, enough, magnitude=True)].abs().amin())
            chosen = exceeding(a, lowered(threshold, least))
        return entries(layer, chosen)

    def most(self, layer: Layer, context: StepContext) -> int:
        return layer.numel

    def expected(self, layer: Layer, context: StepContext) -> int:
        return entries_expected(layer, self.density(context), self.coding(layer, EMPTY, context))


def normal_threshold(a: Tensor, density: float) -> float:
    """t_0"""
    total = squares = 0.0
    for chunk in a.split(CHUNK):  # in float64, of which no copy but that of a chunk is made
        exact = chunk.double()
        total += float(exact.sum())
        squares += float(torch.dot(exact, exact))
    mean = total / len(a)
    return abs(mean) - sqrt(max(0.0, squares / len(a) - mean**2)) * NormalDist().inv_cdf(density / 2)


def lowered(threshold: float, below: float) -> float:
    """The first of threshold / STEP**j, j = 1, 2, ..., that is below a positive float32; 0 for 0."""
    if below == 0:
        return 0.0
    steps = max(1, floor(log(threshold / below) / log(STEP)) + 1)
    return min(threshold / STEP**steps, float(np.nextafter(np.float32(below), np.float32(0))))
