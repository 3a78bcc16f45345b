"""What a link can carry over time: contact windows and changes of rate, as pieces of constant capacity. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from node_agent.job import LinkSettings


class Passage(NamedTuple):
    """How a number of bits got through; times in s."""

    ended: float
    """when the last bit had left"""
    busy: float
    """for how long they occupied the link"""
    paused: bool
    """whether they met a closed link, before or on the way"""
    opened: float
    """when the last closure that they met ended; the moment at which they were ready where they met none"""


class Timeline:
    """Pieces of time, each with its capacity in bit/s: 0 while no contact is scheduled, infinite where not limited."""

    def __init__(self, settings: LinkSettings) -> None:
        windows = settings.schedule
        edges = {change.at for change in settings.changes}
        if windows is not None:
            edges |= {moment for window in windows for moment in (window.start, window.end)}
        self._starts = [-math.inf, *sorted(edges)]
        self._capacities = [
            self._capacity(settings, start if math.isfinite(start) else min(edges, default=0.0) - 1.0)
            for start in self._starts
        ]

    @staticmethod
    def _capacity(settings: LinkSettings, moment: float) -> float:
        if settings.schedule is not None:
            index = bisect_right(settings.schedule, moment, key=lambda window: window.start) - 1
            if index < 0 or moment >= settings.schedule[index].end:
                return 0.0
        rate = settings.state_at(moment).rate
        return math.inf if rate is None else rate

    def through(self, bits: float, ready: float) -> Passage | None:
        """The passage of so many bits that are ready at `ready`; they pause while the link is closed. None: never."""
        moment, busy, paused, opened = ready, 0.0, False, ready
        for capacity, end in self._pieces(ready):
            if capacity == 0:
                paused, opened = True, end
            else:
                needed = bits / capacity
                if moment + needed <= end:
                    return Passage(moment + needed, busy + needed, paused, opened)
                busy += end - moment
                bits -= capacity * (end - moment)
            moment = end
        return None

    def _pieces(self, moment: float) -> Iterator[tuple[float, float]]:
        """Capacity and end of the piece at `moment` and of those after it."""
        first = bisect_right(self._starts, moment) - 1
        for index in range(first, len(self._starts)):
            end = self._starts[index + 1] if index + 1 < len(self._starts) else math.inf
            yield self._capacities[index], end

    def edges(self) -> list[float]:
        """Where pieces meet, s."""
        return self._starts[1:]

    def last_moment(self, bits: float) -> float | None:
        """The latest at which so many bits may be ready to get through at all; None where the link never closes for
        good, or where they never get through."""
        if self._capacities[-1] > 0:
            return None
        for index in range(len(self._starts) - 2, -1, -1):
            start, end, capacity = self._starts[index], self._starts[index + 1], self._capacities[index]
            if capacity * (end - start) >= bits > 0:
                return end - bits / capacity
            bits -= capacity * (end - start)
        return None
