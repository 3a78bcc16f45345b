"""What a link gave its messages, as the node that receives them sees it.

Delay: only of messages that this node was already waiting for; of others the arrival was not seen. It is counted from
the end of the transmission as the sender states it, by the receiver's clock. Rate: of messages that
follow one another without a gap. Under the virtual clock both are computed, and equal the link's model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from node_agent.events import Received
from node_agent.transport import HEADER_BYTES, Header

BURST = 0.005
"""s; messages that arrive back to back for less than this are too few to tell the rate from the host's own jitter"""


class Burst:
    """Messages that follow one another without a gap: what arrived after the first, and in what time.

    The arrival of a message that nobody was waiting for was not seen; its bits count once a later one's was.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._unseen = 0
        self.bits = 0
        self.seconds = 0.0

    def take(self, bits: int, arrived: float | None) -> None:
        self._unseen += bits
        if arrived is not None:
            self.bits += self._unseen
            self.seconds = arrived - self._began
            self._unseen = 0


class Meter:
    """Takes every message of one link, in order."""

    def __init__(self) -> None:
        self._burst: Burst | None = None
        self._delays: list[float] = []
        self._rate_bits = 0
        self._rate_s = 0.0

    def take(self, header: Header, arrived: float, waited: bool) -> None:
        """`arrived` by the clock of the header's times, s; `waited` tells whether the arrival itself was seen."""
        if waited:
            self._delays.append(arrived - header.ended)
        if not header.back_to_back:
            self._end_burst()
        elif self._burst is not None:
            self._burst.take(8 * (HEADER_BYTES + header.length), arrived if waited else None)
        if self._burst is None:
            # Where the first one's arrival was not seen, the time from when it was due cannot make the rest look fast.
            self._burst = Burst(arrived if waited else header.arrival)

    def _end_burst(self) -> None:
        burst, self._burst = self._burst, None
        if burst is not None and burst.seconds >= BURST:
            self._rate_bits += burst.bits
            self._rate_s += burst.seconds

    @property
    def delays(self) -> NDArray[np.float64]:
        """Each delay since the last call of `measured`, s."""
        return np.array(self._delays)

    def measured(self) -> Received:
        """What was measured since the last call."""
        self._end_burst()
        delays, bits, seconds = self.delays, self._rate_bits, self._rate_s
        self._delays, self._rate_bits, self._rate_s = [], 0, 0.0
        if not len(delays):
            return Received(rate_bits=bits, rate_s=seconds)
        return Received(
            delay_s=float(delays.mean()),
            delay_sd_s=float(delays.std()),
            delay_max_s=float(delays.max()),
            delay_samples=len(delays),
            rate_bits=bits,
            rate_s=seconds,
        )
