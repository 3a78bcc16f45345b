"""No compression: the mean of float32 gradients by one ring all-reduce (Patarasuk and Yuan, JPDC 69(2), 2009)."""

from __future__ import annotations

from node_agent.compression.base import Coder, Layer


class Dense(Coder):
    """ghat = (1/N) sum_k g_k"""

    reduction = "aligned"
    borrows = True  # nothing changes the gradient before it is on its way

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        return True
