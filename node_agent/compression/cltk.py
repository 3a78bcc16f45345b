"""CLT-k, the cyclic local top-k of ScaleCom (Chen et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from node_agent.compression.base import Coded, Layer, Round, Rounds, StepContext
from node_agent.compression.basis import Tiles
from node_agent.compression.octets import PayloadError, tensor_of
from node_agent.compression.selection import largest
from node_agent.compression.sparse import Sparsifier, entries
from node_agent.compression.tiles import Tiling


class CLTK(Sparsifier):
    """In step t of N nodes, the leader t mod N chooses for all of them:

        I = the K = max(1, int(density * d)) entries of largest |a_leader| of each layer; ties to the lower index
        every node says a_i, i in I

    The indices go round in a message of the leader's; the values are summed. As all nodes send the same entries, the
    result is this selection of the averaged gradient. The residual may be low-pass filtered: see `LowPass`.
    """

    reduction = "aligned"

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        layers = [self.layers[name] for name in names]
        leader, message = context.step % context.world_size, b""
        if context.rank == leader:
            message = b"".join(self.chosen(*one, context).write() for one in zip(layers, gradients, strict=True))
        messages = yield Round.private(tensor_of(message))
        try:
            bases = self.told(memoryview(messages[leader].numpy()), layers, context)
        except PayloadError as error:
            raise PayloadError(f"message of rank {leader}: {error}") from error
        return self.code(layers, gradients, bases, context)

    def chosen(self, layer: Layer, gradient: Tensor, context: StepContext) -> Tiles:
        return entries(layer, largest(gradient.reshape(-1), self.most(layer, context), magnitude=True))

    def told(self, message: memoryview, layers: Sequence[Layer], context: StepContext) -> list[Tiles]:
        """The leader's choice of each layer. Raises PayloadError for anything that is none."""
        bases, at = [], 0
        for layer in layers:
            basis, length = Tiles.read(message[at:], layer.shape)
            tiling, count = Tiling.of(layer.shape), self.most(layer, context)
            if (basis.tiling, len(basis.chosen)) != (tiling, count):
                raise PayloadError(
                    f"payload: layer {layer.name}: found {len(basis.chosen)} chosen of {basis.tiling}, "
                    f"expected {count} of {tiling}"
                )
            bases.append(basis)
            at += length
        if at != len(message):
            raise PayloadError(f"payload: found {len(message)} bytes of indices, expected {at}")
        return bases
