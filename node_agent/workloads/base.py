"""What a node trains: the model, its own shard of the data, the loss, and what it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

Reduce = Literal["sum", "min", "max"]


class Collectives(Protocol):
    """The part of the ring that a workload may use to agree on statistics with the other nodes."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, tensor: Tensor, op: Reduce = "sum") -> None:
        """Reduce a contiguous CPU tensor over all nodes, in place; bit-identical everywhere afterwards."""


class Workload(ABC):
    """`prepare` once, then `loss` every step; `observe` whenever asked, without touching the training state."""

    model: nn.Module
    learning_rate: float

    @abstractmethod
    def prepare(self, collectives: Collectives) -> dict[str, Any]:
        """Read this node's shard, agree on statistics, build the model (the same on every node).

        Returns facts worth reporting, ready for JSON.
        """

    @abstractmethod
    def loss(self) -> Tensor:
        """The scalar loss of this node's next mini-batch."""

    @abstractmethod
    def observe(self) -> dict[str, NDArray[Any]]:
        """What the model as it stands makes of this node's whole shard."""
