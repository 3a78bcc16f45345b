"""What a compressor is: a sequence of rounds, each a payload and the reduction that it admits.

A method is written as a generator. It yields what this node has to say, and is handed what the ring made of it:

    total = yield Payload.aligned(scores)          # a tensor of the same shape, summed over the nodes
    messages = yield Payload.private(octets)       # one message of each node, in rank order

and returns the averaged gradients together with this node's own share of them, from which error feedback takes its
residual. The mean is computed from what the rounds returned and nothing else, so that it is the same on every node,
bit for bit. Without a group the same code runs on one node's gradients: see `alone`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor

from node_agent.compression.settings import Reduction

MINIMUM_ENTRIES = 1024
"""Tensors with fewer entries are sent dense: their index and mask would cost more than they save."""


@dataclass(frozen=True)
class Layer:
    """One parameter tensor as the compressor knows it."""

    name: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Payload:
    """What leaves the node in one round: a contiguous 1-D tensor whose bytes are what is counted. An aligned one may be
    summed in place: once it has been yielded its data is no longer the method's.

    `values` is the number of gradient values that it carries (scores, masks and indices are not gradient values).
    """

    data: Tensor
    reduction: Reduction
    values: int

    @classmethod
    def aligned(cls, data: Tensor, values: int | None = None) -> Payload:
        return cls(data.contiguous().view(-1), "aligned", data.numel() if values is None else values)

    @classmethod
    def private(cls, octets: Tensor, values: int) -> Payload:
        if octets.dtype != torch.uint8:
            raise TypeError(f"a private payload is bytes (torch.uint8), not {octets.dtype}")
        return cls(octets.contiguous().view(-1), "private", values)

    @property
    def nbytes(self) -> int:
        return self.data.numel() * self.data.element_size()


@dataclass(frozen=True)
class Exchanged:
    """The outcome of an exchange, in layer order: gradients averaged over the nodes, and what this node alone
    contributed as the others decode it (so that `gradient - own` is what was not said)."""

    mean: list[Tensor]
    own: list[Tensor]


Rounds = Generator[Payload, Any, Exchanged]
"""Yields payloads; is sent a summed tensor (aligned) or a list of byte tensors in rank order (private)."""


@dataclass(frozen=True)
class StepContext:
    """Where in the training an exchange happens."""

    world_size: int
    step: int


class GradientError(ValueError):
    """A gradient that must not be averaged; names the layer."""


def check(layer: Layer, gradient: Tensor) -> None:
    """Raises GradientError unless the gradient is finite float32, shaped as its layer."""
    if tuple(gradient.shape) != layer.shape or gradient.dtype != torch.float32:
        raise GradientError(
            f"layer {layer.name}: found a gradient of {gradient.dtype} and shape {tuple(gradient.shape)}, "
            f"expected torch.float32 and {layer.shape}"
        )
    # The extremes are NaN where any entry is; they cost a twentieth of isfinite().all().
    if gradient.numel() and not all(isfinite(extreme) for extreme in torch.aminmax(gradient)):
        wrong = int((~gradient.isfinite()).sum())
        raise GradientError(f"layer {layer.name}: {wrong} of {gradient.numel()} gradient entries are NaN or infinite")


class Compressor(ABC):
    """One method. `layers` are all the tensors that it will ever see, each under its own name; a single exchange may
    bring any of them, in any grouping, each exactly once a step."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = {layer.name: layer for layer in layers}

    @classmethod
    def takes(cls, layer: Layer) -> bool:
        """Whether the method compresses this tensor; what it does not take is averaged dense."""
        return len(layer.shape) > 1 and layer.numel >= MINIMUM_ENTRIES

    def rounds(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        """Exchange these layers' gradients (float32, on the CPU, shaped as their layers; not to be modified).

        Raises GradientError at once, before anything is said, where a gradient is not finite or does not fit."""
        for name, gradient in zip(names, gradients, strict=True):
            if name not in self.layers:
                raise GradientError(f"layer {name}: unknown to {type(self).__name__}")
            check(self.layers[name], gradient)
        return self.exchange(names, gradients, context)

    @abstractmethod
    def exchange(self, names: Sequence[str], gradients: Sequence[Tensor], context: StepContext) -> Rounds:
        """The method itself, on gradients that `rounds` has checked."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")


def alone(rounds: Rounds) -> tuple[Exchanged, list[Payload]]:
    """Run an exchange with no other node: every sum is one's own payload. Also returns the payloads, in order."""
    sent: list[Payload] = []
    try:
        payload = next(rounds)
        while True:
            sent.append(payload)
            payload = rounds.send(payload.data if payload.reduction == "aligned" else [payload.data])
    except StopIteration as finished:
        outcome: Exchanged = finished.value
        return outcome, sent
