"""What a method is: a basis for every layer, agreed among the nodes where that is needed, and a coding of the values.

    g_k  ->  c_k = coordinates of g_k in a basis B_k      (choose a basis; take coordinates)
         ->  octets                                       (a coding of the coordinates)
    ghat = (1/N) sum_k B_k c_k

Where all nodes have the same basis, the octets are summed by a ring all-reduce (*aligned*); where each has its own,
they travel a ring all-gather (*private*), and the sum is taken in rank order. Either way it is computed from what the
rounds returned and nothing else, so that it is the same on every node, bit for bit.

A method that needs the others before it can choose is a generator: it yields what this node has to say in a round of
its own, and is handed what the ring made of it:

    total = yield Round.aligned(scores)            # a tensor of the same shape, summed over the nodes
    messages = yield Round.private(octets)         # one message of each node, in rank order

Without a group the same code runs on one node's gradients: see `alone`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from node_agent.compression.basis import All, Basis
from node_agent.compression.settings import CompressorSettings, Reduction
from node_agent.compression.values import Coding, Floats

MINIMUM_ENTRIES = 1024
"""Tensors with fewer entries are sent dense: their index and mask would cost more than they save."""


@dataclass(frozen=True)
class Layer:
    """One parameter tensor as the compressor knows it. `number` is its place among those of the model."""

    name: str
    shape: tuple[int, ...]
    number: int = 0

    @property
    def numel(self) -> int:
        return prod(self.shape)


def numbered(layers: Iterable[Layer]) -> list[Layer]:
    return [replace(layer, number=number) for number, layer in enumerate(layers)]


@dataclass(frozen=True)
class Round:
    """What leaves the node in one round: a contiguous 1-D tensor whose bytes are what is counted. An aligned one may be
    summed in place: once it has been yielded its data is no longer the method's.

    `values` is the number of gradient values that it carries (scores, masks and indices are not gradient values).
    """

    data: Tensor
    reduction: Reduction
    values: int

    @classmethod
    def aligned(cls, data: Tensor, values: int = 0) -> Round:
        return cls(data.contiguous().view(-1), "aligned", values)

    @classmethod
    def private(cls, octets: Tensor, values: int = 0) -> Round:
        if octets.dtype != torch.uint8:
            raise TypeError(f"a private round is of bytes (torch.uint8), not {octets.dtype}")
        return cls(octets.contiguous().view(-1), "private", values)

    @property
    def nbytes(self) -> int:
        return self.data.numel() * self.data.element_size()


class GradientError(ValueError):
    """A gradient that must not be averaged; names the layer."""


T = TypeVar("T")
Rounds = Generator[Round, Any, T]
"""Yields rounds; is sent a summed tensor (aligned) or a list of byte tensors in rank order (private)."""


@dataclass(frozen=True)
class StepContext:
    """Where in the training, and on which node, an exchange happens."""

    world_size: int = 1
    step: int = 0
    rank: int = 0
    seed: int = 0
    density: float | None = None
    """this step's, where it is not the settings' own"""

    def generator(self, layer: Layer, shared: bool = False) -> np.random.Generator:
        """Randomness of this step and layer: of this node's own, or the same on all nodes."""
        node = 0 if shared else self.rank + 1
        return np.random.Generator(np.random.SFC64([self.seed, self.step, layer.number, node]))


@dataclass(frozen=True)
class Coded:
    """What one node says of one layer."""

    layer: Layer
    basis: Basis
    coding: Coding
    octets: Tensor
    """coordinates in the basis, coded"""
    reduction: Reduction

    @property
    def values(self) -> int:
        return self.basis.size

    def coordinates(self, room: Tensor | None = None) -> Tensor:
        """Decoded: 1-D, float32. May share the memory of the octets; else in `room`, where that is long enough."""
        size = self.basis.size
        if self.coding == Floats() and self.octets.numel() == 4 * size and self.octets.storage_offset() % 4 == 0:
            return self.octets.view(torch.float32)
        return self.coding.decode(self.octets, size, None if room is None or len(room) < size else room[:size])

    def add_to(self, into: Tensor, factor: float = 1.0, room: Tensor | None = None) -> None:
        """Add what it stands for, times `factor`, to a contiguous float32 tensor shaped as the layer."""
        self.basis.add(self.coordinates(room), into, factor)

    def decoded(self) -> Tensor:
        tensor = torch.zeros(self.layer.shape)
        self.add_to(tensor)
        return tensor


class Method(ABC):
    """One method, or a wrapper around some. `layers` are all the tensors that it will ever see, each under its own
    name; a single exchange may bring any of them, in any grouping, each exactly once a step."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = {layer.name: layer for layer in layers}

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        """Whether the method compresses this tensor; what it does not take is averaged dense."""
        return len(layer.shape) > 1 and layer.numel >= MINIMUM_ENTRIES

    @abstractmethod
    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        """What this node says of these layers' gradients (finite float32, shaped as their layers; not to be modified).
        Yields the rounds in which the nodes agree, if any."""

    @abstractmethod
    def bound(self, layer: Layer, context: StepContext) -> int:
        """Bytes that basis and coordinates of the layer never exceed in a payload."""

    def expected(self, layer: Layer, context: StepContext) -> int:
        """Those that they come to once the method is warm, where it is known that this is below the bound."""
        return self.bound(layer, context)

    @property
    def corrected(self) -> frozenset[str]:
        """Names of the layers whose gradients come with momentum, to which the optimiser is to add none."""
        return frozenset()

    def hear(self, total: Coded) -> None:  # noqa: B027 (most have no use for it)
        """What all nodes have said of a layer together, of one that is aligned: its coordinates are their sums."""

    def average(self, layer: Layer, total: Tensor, world_size: int) -> None:
        """Make of the layer's sum over the nodes what every node goes on with, in place."""
        total.div_(world_size)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For a state, which goes its own way from then on."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


class Wrapper(Method):
    """A method that is another one with something around it."""

    def __init__(self, method: Method) -> None:
        super().__init__(list(method.layers.values()))
        self.method = method

    def bound(self, layer: Layer, context: StepContext) -> int:
        return self.method.bound(layer, context)

    def expected(self, layer: Layer, context: StepContext) -> int:
        return self.method.expected(layer, context)

    @property
    def corrected(self) -> frozenset[str]:
        return self.method.corrected

    def hear(self, total: Coded) -> None:
        self.method.hear(total)

    def average(self, layer: Layer, total: Tensor, world_size: int) -> None:
        self.method.average(layer, total, world_size)

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state)


class Coder(Method):
    """A method whose nodes need not agree: it says which basis it takes for a layer, and how coordinates are coded.

    As it stands it says everything, in float32.
    """

    reduction: Reduction = "private"
    borrows: ClassVar[bool] = False
    """what it says may lie in the gradient's memory, which nobody writes to before it is on its way"""

    def __init__(self, settings: CompressorSettings, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.settings = settings

    def basis(self, layer: Layer, gradient: Tensor, context: StepContext) -> Basis:
        return All(layer.shape)

    def coding(self, layer: Layer, values: Tensor, context: StepContext) -> Coding:
        return Floats()

    def compress(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds[list[Coded]]:
        layers = [self.layers[name] for name in names]
        bases = [self.basis(*one, context) for one in zip(layers, gradients, strict=True)]
        return self.code(layers, gradients, bases, context)
        yield  # a generator that has nothing to agree on

    def bound(self, layer: Layer, context: StepContext) -> int:
        coding = self.coding(layer, torch.zeros(0), context)
        return len(coding.write()) + coding.size(layer.numel)

    def code(
        self, layers: Sequence[Layer], gradients: Sequence[Tensor], bases: Sequence[Basis], context: StepContext
    ) -> list[Coded]:
        """The gradients' coordinates in these bases, coded."""
        # An accelerator is given all that it has to do before the host waits for the first of its results.
        coordinates = [basis.coordinates(gradient) for basis, gradient in zip(bases, gradients, strict=True)]
        coded = []
        for layer, gradient, basis, values in zip(layers, gradients, bases, coordinates, strict=True):
            said = self.say(layer, basis, values.cpu(), context)
            lent = said.octets.untyped_storage().data_ptr() == gradient.untyped_storage().data_ptr()
            coded.append(replace(said, octets=said.octets.clone()) if lent and not self.borrows else said)
        return coded

    def say(self, layer: Layer, basis: Basis, values: Tensor, context: StepContext) -> Coded:
        """The layer's coordinates, coded; in their own memory where they are float32 and written as such."""
        coding = self.coding(layer, values, context)
        generator = context.generator(layer) if coding.random else None
        octets = values.view(torch.uint8) if coding == Floats() else coding.encode(values, generator)
        return Coded(layer, basis, coding, octets, self.reduction)


def alone(rounds: Rounds[T]) -> tuple[T, list[Round]]:
    """Run to its end with no other node: every sum is one's own. Also returns the rounds, in order."""
    sent: list[Round] = []
    try:
        one = next(rounds)
        while True:
            sent.append(one)
            one = rounds.send(one.data if one.reduction == "aligned" else [one.data])
    except StopIteration as finished:
        outcome: T = finished.value
        return outcome, sent
