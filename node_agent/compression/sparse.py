"""Sparsifiers whose nodes choose independently: each sends the values of its own tiles, and all are averaged.

    ghat = (1/N) sum_k scatter(a_k[T_k])        T_k the tiles that node k chose of its a_k

summed in rank order, so that all replicas agree bit for bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from node_agent.compression import codec
from node_agent.compression.base import Compressor, Exchanged, Layer, Payload, Rounds, StepContext
from node_agent.compression.codec import PayloadError, Selection, Space
from node_agent.compression.tiles import Tiling


class Sparsifier(Compressor):
    """A method says how a layer is cut into tiles (`tiling`, and the matrix that they cut) and which ones to send."""

    wire_id: ClassVar[int]

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.tilings = {layer.name: self.tiling(layer) for layer in layers}
        self.spaces = {
            name: Space(number, tiling.tiles, tiling.entries)
            for number, (name, tiling) in enumerate(self.tilings.items())
        }

    @abstractmethod
    def tiling(self, layer: Layer) -> Tiling: ...

    @abstractmethod
    def matrix(self, gradient: Tensor) -> Tensor:
        """The gradient as the matrix that the tiling cuts."""

    @abstractmethod
    def restore(self, matrix: Tensor, layer: Layer) -> Tensor:
        """The inverse of `matrix`."""

    @abstractmethod
    def choose(self, names: Sequence[str], matrices: Sequence[Tensor], context: StepContext) -> list[Tensor]:
        """The tiles of each matrix to be sent, ascending."""

    def exchange(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        spaces = [self.spaces[name] for name in names]
        tilings = [self.tilings[name] for name in names]
        matrices = [self.matrix(gradient) for gradient in gradients]
        chosen = self.choose(names, matrices, context)

        sent, own = [], []
        for tiling, matrix, tiles in zip(tilings, matrices, chosen, strict=True):
            members = tiling.members(tiles)
            values = matrix.reshape(-1)[members]
            sent.append(Selection(tiles, values))
            own.append(torch.zeros(tiling.entries).index_copy_(0, members, values))
        messages = yield Payload.private(
            codec.encode(self.wire_id, spaces, sent), values=sum(selection.values.numel() for selection in sent)
        )

        total = [torch.zeros(tiling.entries) for tiling in tilings]
        for rank, message in enumerate(messages):
            try:
                selections = codec.decode(message, self.wire_id, spaces)
                for tiling, into, selection in zip(tilings, total, selections, strict=True):
                    members = tiling.members(selection.units)
                    if len(members) != len(selection.values):
                        raise PayloadError(f"payload: {len(selection.values)} values for {len(members)} entries")
                    into.index_add_(0, members, selection.values)
            except PayloadError as error:
                raise PayloadError(f"message of rank {rank}: {error}") from error
        layers = [self.layers[name] for name in names]
        return Exchanged(
            mean=[self.restore(m.div_(context.world_size), layer) for m, layer in zip(total, layers, strict=True)],
            own=[self.restore(m, layer) for m, layer in zip(own, layers, strict=True)],
        )
