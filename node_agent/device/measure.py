"""How long something takes, measured several times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

AT_LEAST = 3
"""repetitions, however long each takes"""


@dataclass(frozen=True)
class Timing:
    best_s: float
    median_s: float
    spread: float
    """distance between the quartiles, as a share of the median"""
    repetitions: int


def timed(
    do: Callable[[], object], budget: float, most: int = 1000, finish: Callable[[], object] | None = None
) -> Timing:
    """Do it once, untimed, then again until `budget` s are over or it was done `most` times; `finish` waits for what
    has only been asked for."""
    do()
    if finish:
        finish()
    found: list[float] = []
    ends = time.monotonic() + budget
    while len(found) < max(AT_LEAST, most) and (len(found) < AT_LEAST or time.monotonic() < ends):
        began = time.perf_counter()
        do()
        if finish:
            finish()
        found.append(time.perf_counter() - began)
    median = statistics.median(found)
    first, _, third = statistics.quantiles(found, n=4)
    return Timing(min(found), median, (third - first) / median if median else 0.0, len(found))
