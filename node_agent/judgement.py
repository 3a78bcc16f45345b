"""What a probe of a link should find, and whether what it found will do. Pure, free of torch."""

from __future__ import annotations

import math

from node_agent.events import Measured
from node_agent.impairments import Jitter
from node_agent.job import LinkSettings, LinkState
from node_agent.link_model import PACKET

DELAY_FLOOR = 0.002
"""s by which a delay may be off in any case: what a busy host adds"""


def at_rest(link: LinkSettings, moment: float = 0.0) -> LinkSettings:
    """The link as it is at one moment, with contact."""
    state = link.state_at(moment)
    values = {name: getattr(state, name) for name in LinkState.model_fields}
    return link.model_copy(update={**values, "schedule": None, "changes": (), "deadline": None})


def deviations(
    link: LinkSettings, found: Measured, tolerance: float, goodput: float = 1.0, shared: bool = False
) -> list[str]:
    """Where a link misses what was asked of it by more than `tolerance` (a fraction), in words; its rate is not judged
    where it is `shared`."""
    asked = asked_of(link, goodput)
    missed: list[str] = []
    if asked.rate is not None and found.rate_bit_s is not None and not shared:
        off = found.rate_bit_s / asked.rate - 1
        if abs(off) > tolerance:
            missed.append(f"rate {found.rate_bit_s:.4g} bit/s instead of {asked.rate:.4g} ({100 * off:+.1f} %)")
    if found.delay_s is not None and abs(found.delay_s - asked.delay) > slack(link, found.samples, tolerance):
        missed.append(f"delay {found.delay_s * 1e3:.4g} ms instead of {asked.delay * 1e3:.4g} ms")
    return missed


def asked_of(link: LinkSettings, goodput: float = 1.0) -> LinkState:
    """What a probe should find of a link as it is asked for: the rate for messages, which is the share `goodput` of the
    rate and of that what framing leaves, and the median delay."""
    rate = None if link.rate is None else link.rate * goodput / (1 + link.overhead / PACKET)
    return LinkState(rate=rate, delay=max(0.0, link.delay + link.jitter * Jitter(link.jitter_kind).median))


def slack(link: LinkSettings, samples: int, tolerance: float) -> float:
    """By how much a median delay may be off, s: the tolerance or 2 ms, and three standard errors of a median."""
    error = 1.25 * link.jitter / math.sqrt(max(1, samples))
    return max(tolerance * link.delay, DELAY_FLOOR) + 3 * error
