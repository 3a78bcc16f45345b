"""Jitter and loss as a link imposes them, packet by packet or many at once. Pure, seeded, free of torch.

The same functions serve the link model and the relay between network namespaces.
"""

from __future__ import annotations

import statistics
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node_agent.job import LinkState

JitterKind = Literal["normal", "uniform", "pareto"]

PARETO_SHAPE = 3.0
"""the shape that netem's table of the same name has"""

PARETO_SPAN = 10.0
"""Largest over smallest value of the bounded Pareto distribution. Without the bound the fourth moment is infinite, and
no measurement of an affordable length would find the standard deviation that was asked for."""

HALF_WIDTH = float(np.sqrt(3.0))
"""of a uniform distribution of standard deviation 1"""

POINTS = 4096
"""quantiles over which moments are taken where there is no closed form"""


class Jitter:
    """What a packet's delay deviates from the link's by, in standard deviations: mean 0, standard deviation 1.

    - normal: the standard normal distribution.
    - uniform: from -√3 to √3.
    - pareto: the bounded Pareto distribution of shape 3 between L and 10 L, moved and scaled to mean 0 and standard
      deviation 1: from -0.69 to 12.1, most of it below 0, with a long tail of late packets.
    """

    def __init__(self, kind: JitterKind) -> None:
        self.kind = kind

    def sample(self, generator: np.random.Generator) -> float:
        return float(self.samples(1, generator)[0])

    def samples(self, n: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Shape [n]."""
        if self.kind == "normal":
            return generator.standard_normal(n)
        return self._quantiles(generator.random(n))

    @property
    def kurtosis(self) -> float:
        """The fourth moment, in standard deviations: how far samples tell the standard deviation."""
        middle = (np.arange(POINTS) + 0.5) / POINTS
        return float((self._quantiles(middle) ** 4).mean())

    @property
    def median(self) -> float:
        return float(self._quantiles(np.array([0.5]))[0])

    def clipped(self, delay: float, deviation: float) -> tuple[float, float]:
        """Mean and standard deviation (s) of max(0, delay + deviation · sample): what is left of a delay and a jitter
        (s, both) because no packet arrives before it was sent. Good to 0.1 %."""
        middle = (np.arange(POINTS) + 0.5) / POINTS
        delays = np.maximum(0.0, delay + deviation * self._quantiles(middle))
        return float(delays.mean()), float(delays.std())

    def _quantiles(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.kind == "normal":
            normal = statistics.NormalDist()
            return np.array([normal.inv_cdf(float(one)) for one in probability])
        if self.kind == "uniform":
            return HALF_WIDTH * (2 * probability - 1)
        # With L = 1 the survival function, unbounded, is x^-shape; the bound leaves out the tail beyond the span.
        tail = PARETO_SPAN**-PARETO_SHAPE
        values = (1 - probability * (1 - tail)) ** (-1 / PARETO_SHAPE)
        mean, square = (_pareto_moment(order, tail) for order in (1, 2))
        return np.asarray((values - mean) / np.sqrt(square - mean**2))


def _pareto_moment(order: int, tail: float) -> float:
    """E x^order: the integral of u^(-order/shape) du from `tail` to 1, over 1 - tail."""
    exponent = 1 - order / PARETO_SHAPE
    return float((1 - tail**exponent) / exponent / (1 - tail))


class Losses:
    """Which packets of a link are lost, one after the other.

    Independent with probability `state.loss`; or, with `state.bursts`, by the chain of Gilbert (Capacity of a
    burst-noise channel, Bell Syst. Tech. J. 39, 1960) and Elliott (ibid. 42, 1963), which starts in its stationary
    distribution and takes a step after each packet. It takes the time that the chain stays in a state from the
    geometric distribution, so that long stays cost nothing.
    """

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self._inside: bool | None = None
        self._left = 0
        """packets until the chain leaves the state that it is in"""

    def change(self, state: LinkState) -> None:
        """From the next packet on the link is in `state`; a chain that goes on stays in the state that it is in."""
        if (state.bursts is None) != (self._state.bursts is None):
            self._inside = None
        if state.bursts != self._state.bursts:
            self._left = 0
        self._state = state

    def lost(self, n: int, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Whether each of the next `n` packets is lost, shape [n]."""
        bursts = self._state.bursts
        if bursts is None:
            if not self._state.loss:
                return np.zeros(n, dtype=bool)
            return np.asarray(generator.random(n) < self._state.loss)
        probability = np.empty(n)
        done = 0
        while done < n:
            if not self._left:
                if self._inside is None:
                    self._inside = bool(generator.random() < bursts.enter / (bursts.enter + bursts.leave))
                self._left = int(generator.geometric(bursts.leave if self._inside else bursts.enter))
            stay = min(self._left, n - done)
            probability[done : done + stay] = bursts.lost_inside if self._inside else bursts.lost_outside
            done += stay
            self._left -= stay
            if not self._left:
                self._inside = not self._inside
        if bursts.lost_inside == 1 and bursts.lost_outside == 0:
            return np.asarray(probability == 1)
        return np.asarray(generator.random(n) < probability)
