"""What the kernel is told about one direction of a link. Pure: settings in, parameters of queueing disciplines out, and
back again from what the kernel reports.

A packet of n bytes, IP header and all, occupies the link for 8 (n + overhead) / rate seconds. The kernel counts what a
device sends, which on an Ethernet device is 14 bytes more: a size table (tc-stab(8)) corrects that, and adds framing.

Rate is a token bucket's (tc-tbf(8)): `burst` bytes may leave at once after a pause, then `rate` holds. The bucket has
to hold the largest packet, and what arrives in it while the kernel's timer is late; anything beyond would make short
messages faster than the link.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node_agent.job import LinkSettings, LinkState
from node_agent.link_model import TCP_HEADERS

MTU = 1500
"""bytes of the largest packet, IP header included"""

ETHERNET = 14
"""bytes of an Ethernet header, which the kernel counts besides"""

LATENESS = 0.001
"""s by which the kernel's timer may be late without loss of rate"""

SMALLEST_QUEUE = 32 * MTU
"""bytes, and"""
SHORTEST_QUEUE = 0.1
"""s at the link's rate; with less, TCP loses packets by filling a link without delay faster than it can hear of it"""

HIGHEST_RATE = 8.0 * (2**32 - 1)
"""bit/s that a token bucket can be set to, in whole bytes a second; its highest stands for no limit"""

TICKS = 1e9 / 64
"""units of the kernel's packet scheduler in a second (include/net/pkt_sched.h: PSCHED_SHIFT 6)"""

LONGEST_BURST = (2**32 - 1) / TICKS
"""s; a bucket's size is told as the time that it takes to fill, in 32 bits"""

LARGEST_TABLED = 256 * 8
"""bytes; besides, the time of every eighth size up to this one is told in as many bits (tc-tbf's rate table)"""

ROOT = 0xFFFFFFFF
BUCKET = 0x10000
"""handle 1:, of the token bucket"""


@dataclass(frozen=True)
class TokenBucket:
    rate: int
    """bytes/s"""
    burst: int
    """bytes that may leave at once"""
    limit: int
    """bytes that may wait"""
    overhead: int
    """bytes that each packet takes beyond what the device counts; negative: less"""

    def arguments(self) -> dict[str, Any]:
        """Of pyroute2's `tc`. The size table goes with every change, which otherwise takes it away."""
        fixed: dict[str, Any] = {"kind": "tbf", "handle": BUCKET, "parent": ROOT}
        sizes = {"stab": size_table(self.overhead)} if self.overhead else {}
        return {**fixed, "rate": self.rate, "burst": self.burst, "limit": self.limit, **sizes}

    @classmethod
    def reported(cls, message: Any) -> TokenBucket:
        """From the kernel's own description of a qdisc (pyroute2's tcmsg)."""
        parameters = message.get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")
        rate = parameters["rate"]
        burst = int(parameters["buffer"] / TICKS * rate)
        return cls(rate, burst, parameters["limit"], overhead_of(message.get_attr("TCA_STAB")))

    @property
    def rate_bits(self) -> float | None:
        """bit/s; None: not limited."""
        return None if 8 * self.rate >= HIGHEST_RATE else 8.0 * self.rate


@dataclass(frozen=True)
class Netem:
    """Delay and independent loss, behind a token bucket."""

    delay: float
    """s"""
    loss: float
    limit: int
    """packets that may be under way"""

    def arguments(self) -> dict[str, Any]:
        fixed: dict[str, Any] = {"kind": "netem", "handle": 2 * BUCKET, "parent": BUCKET + 1}
        return {**fixed, "delay": round(1e6 * self.delay), "loss": 100 * self.loss, "limit": self.limit}

    @classmethod
    def reported(cls, message: Any) -> Netem:
        parameters = message.get_attr("TCA_OPTIONS")
        return cls(parameters["delay"] / TICKS, parameters["loss"] / (2**32 - 1), parameters["limit"])


def token_bucket(settings: LinkSettings, state: LinkState, header: int, together: int = 1) -> TokenBucket:
    """The bucket for what of the link holds now.

    `header` is what the device counts of each packet besides its IP packet, bytes; the bucket holds `together` packets
    at once."""
    rate = int(min(HIGHEST_RATE, math.inf if state.rate is None else state.rate) / 8)
    overhead = settings.overhead - header
    largest = together * (MTU + settings.overhead)
    # Its size travels as a time in whole microseconds, rounded down twice.
    microseconds = math.ceil(1e6 * (largest / rate + LATENESS)) + 2
    return TokenBucket(rate, math.ceil(microseconds * rate / 1e6), queue_bytes(settings), overhead)


def lowest_rate(settings: LinkSettings, together: int = 1) -> float:
    """bit/s that a bucket can be set to which holds `together` packets of the link at once."""
    largest = max(together * (MTU + settings.overhead), LARGEST_TABLED)
    # What `token_bucket` adds: a byte and 3 us of rounding up, and LATENESS.
    return 8.0 * math.ceil((largest + 1) / (LONGEST_BURST - LATENESS - 3e-6))


def netem(settings: LinkSettings, state: LinkState) -> Netem:
    under_way = (state.rate or HIGHEST_RATE) * state.delay / 8 + queue_bytes(settings)
    return Netem(state.delay, state.loss, math.ceil(under_way / 64))


def states(settings: LinkSettings) -> tuple[LinkState, ...]:
    """Everything that holds of a link at one time or another."""
    return (settings, *settings.changes)


def queue_bytes(settings: LinkSettings) -> int:
    """What may wait for the link: as asked, else what it carries in one round trip, or in the shortest queue's time."""
    if settings.queue is not None:
        return max(settings.queue, MTU + settings.overhead)
    product = max((state.rate or 0.0) / 8 * max(2 * state.delay, SHORTEST_QUEUE) for state in states(settings))
    return max(SMALLEST_QUEUE, math.ceil(product))


def payload_rate(rate: float, overhead: int = 0) -> float:
    """bit/s of TCP payload that a link of `rate` carries in full packets."""
    return rate * (MTU - TCP_HEADERS) / (MTU + overhead)


def limited(settings: LinkSettings) -> bool:
    return any(state.rate is not None for state in states(settings))


def beyond_rate(settings: LinkSettings) -> bool:
    """Whether the link does more than limit its rate: what a token bucket cannot do."""
    return settings.schedule is not None or any(
        state.delay or state.jitter or state.loss or state.bursts for state in states(settings)
    )


def netem_suffices(settings: LinkSettings) -> bool:
    """Whether netem does what is asked as it is meant here: its jitter reorders, and it knows no windows."""
    return settings.schedule is None and not any(state.jitter or state.bursts for state in states(settings))


def size_table(overhead: int) -> bytes:
    """TCA_STAB without a table: `overhead` is added to the length of each packet (struct tc_sizespec)."""
    ethernet = 1
    base = struct.pack("=BBhiIIII", 0, 0, 0, overhead, ethernet, 0, 0, 0)
    return struct.pack("=HH", 4 + len(base), 1) + base


def overhead_of(dumped: str | None) -> int:
    """The overhead of a size table as pyroute2 shows it: bytes in hexadecimal, with colons."""
    if dumped is None:
        return 0
    base = bytes.fromhex(dumped.replace(":", ""))[4:]
    overhead: int = struct.unpack_from("=BBhi", base)[3]
    return overhead


@dataclass(frozen=True)
class Counters:
    """What a device has sent, and what its queue had to drop."""

    bytes: int = 0
    """as the rate counts them"""
    packets: int = 0
    dropped: int = 0

    @classmethod
    def reported(cls, message: Any) -> Counters:
        statistics: Mapping[str, int] = message.get_attr("TCA_STATS")
        return cls(statistics["bytes"], statistics["packets"], statistics["drop"])
