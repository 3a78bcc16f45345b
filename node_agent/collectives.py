"""What nodes can agree on together."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

Reduce = Literal["sum", "min", "max"]


class Collectives(Protocol):
    """The part of the ring that a workload may use to agree on statistics with the other nodes."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, tensor: Tensor, op: Reduce = "sum") -> None:
        """Reduce a contiguous CPU tensor over all nodes, in place; bit-identical everywhere afterwards."""
