"""What a node trains: the model, its own shard of the data, the loss, and what it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from node_agent.collectives import Collectives


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
