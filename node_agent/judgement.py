"""What a probe of a link should find, and whether what it found will do. Pure, free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from node_agent.events import Measured
from node_agent.impairments import Jitter
from node_agent.job import LinkSettings, LinkState
from node_agent.link_model import PACKET, packets

DELAY_FLOOR = 0.002
"""s by which a delay may be off in any case: what a busy host adds"""

JITTER_FLOOR = 0.004
"""s; less jitter is not told from the host's own"""

FEWEST_SAMPLES = 4
"""messages, of at least eight that were sent"""


def at_rest(link: LinkSettings, moment: float = 0.0) -> LinkSettings:
    """The link as it is at one moment, with contact."""
    state = link.state_at(moment)
    values = {name: getattr(state, name) for name in LinkState.model_fields}
    return link.model_copy(update={**values, "schedule": None, "changes": (), "deadline": None})


def deviations(
    link: LinkSettings, found: Measured, tolerance: float, over_tcp: bool = False, shared: bool = False
) -> list[str]:
    """Where a link misses what was asked of it by more than `tolerance` (a fraction), in words. What could not be
    measured misses it.

    Jitter is judged where it is larger than what a busy host adds. Beneath TCP (`over_tcp`) it is not, as a message is
    there when the last of its packets is; a single message may pass a token bucket without waiting for its bits, and a
    burst takes what the bucket holds, of up to three packets, besides. The rate is not judged where the link is
    `shared`. Loss is counted by who sends.
    """
    asked, allowed = asked_of(link, message_bytes=found.message_bytes), slack(link, found, tolerance)
    bucket = single = 0.0
    if over_tcp and link.rate is not None:
        bucket, single = 3 * 8 * PACKET / link.rate / max(found.burst_s, 1e-3), 8 * PACKET / 4 / link.rate
    missed: list[str] = []
    if asked.rate is not None and not shared and found.rate_bit_s is None:
        missed.append("rate not measured: no burst lasted")
    elif asked.rate is not None and not shared and found.rate_bit_s is not None:
        off = found.rate_bit_s / asked.rate - 1
        if abs(off) > allowed.rate + bucket:
            missed.append(f"rate {found.rate_bit_s:.4g} bit/s instead of {asked.rate:.4g} ({100 * off:+.1f} %)")
    if found.delay_s is None or found.jitter_s is None or found.samples < FEWEST_SAMPLES:
        return [*missed, f"delay not measured: only {found.samples} messages came when they should"]
    if abs(found.delay_s - asked.delay) > allowed.delay + single:
        missed.append(f"delay {found.delay_s * 1e3:.4g} ms instead of {asked.delay * 1e3:.4g} ms")
    if not over_tcp and link.jitter > JITTER_FLOOR and abs(found.jitter_s - asked.jitter) > allowed.jitter:
        missed.append(f"jitter {found.jitter_s * 1e3:.4g} ms instead of {asked.jitter * 1e3:.4g} ms")
    return missed


def asked_of(link: LinkSettings, goodput: float = 1.0, message_bytes: int = PACKET) -> LinkState:
    """What a probe should find of a link as it is asked for: the rate for messages of so many bytes, which is the share
    `goodput` of the rate, of that what framing leaves, and of that what is not sent again; the median delay; and the
    jitter."""
    framing = link.overhead * packets(message_bytes)
    share = goodput * (1 - link.loss) * message_bytes / (message_bytes + framing)
    rate = None if link.rate is None else link.rate * share
    if not link.jitter:
        return LinkState(rate=rate, delay=link.delay)
    kind = Jitter(link.jitter_kind)
    _, left = kind.clipped(link.delay, link.jitter)
    return LinkState(rate=rate, delay=max(0.0, link.delay + link.jitter * kind.median), jitter=left)


@dataclass(frozen=True)
class Slack:
    """By how much a measurement may be off: the tolerance, and three standard errors of what so few samples tell."""

    rate: float
    """a fraction"""
    delay: float
    """s; 2 ms in any case"""
    jitter: float
    """s; 2 ms in any case"""


def slack(link: LinkSettings, found: Measured, tolerance: float) -> Slack:
    samples, seconds = max(1, found.samples), max(found.burst_s, 1e-3)
    # A burst is measured from its first arrival to its last: each jitters, or comes a round trip late.
    late = 3 * math.sqrt(2) * link.jitter + (2 * link.delay if link.loss else 0.0)
    packets = max(1.0, (link.rate or 0.0) * seconds / 8 / PACKET)
    together = 2 / link.bursts.leave if link.bursts else 1.0
    lost = 3 * math.sqrt(link.loss * (1 - link.loss) * together / packets)
    spread = math.sqrt((Jitter(link.jitter_kind).kurtosis - 1) / (4 * samples)) if link.jitter else 0.0
    return Slack(
        rate=tolerance + late / seconds + lost,
        delay=max(tolerance * link.delay, DELAY_FLOOR) + 3 * 1.25 * link.jitter / math.sqrt(samples),
        jitter=max(tolerance * link.jitter, DELAY_FLOOR) + 3 * spread * link.jitter,
    )
