"""A compressor as its users hold it: gradients to bytes and back, and the same among the nodes of a ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from node_agent.compression import codec
from node_agent.compression.automatic import LinkAware
from node_agent.compression.base import Coded, GradientError, Layer, Method, Round, Rounds, StepContext, alone, numbered
from node_agent.compression.build import build
from node_agent.compression.octets import PayloadError, tensor_of
from node_agent.compression.settings import AutomaticDensity, CompressorSettings, Reduction
from node_agent.compression.values import Floats

FAULT = b"ESGF"
"""In front of what a node says instead of its payload when it has no sound gradient."""


def fault_of(layer: Layer, gradient: Tensor) -> str:
    """What is wrong with a gradient that is not finite float32, shaped as its layer; empty if it is."""
    if tuple(gradient.shape) != layer.shape or gradient.dtype != torch.float32:
        return (
            f"layer {layer.name}: found a gradient of {gradient.dtype} and shape {tuple(gradient.shape)}, "
            f"expected torch.float32 and {layer.shape}"
        )
    # The extremes are NaN where any entry is, and cost far less than isfinite().all().
    if gradient.numel() and not all(isfinite(extreme) for extreme in torch.aminmax(gradient)):
        wrong = int((~gradient.isfinite()).sum())
        return f"layer {layer.name}: {wrong} of {gradient.numel()} gradient entries are NaN or infinite"
    return ""


def check(layer: Layer, gradient: Tensor) -> None:
    """Raises GradientError unless the gradient is finite float32, shaped as its layer."""
    if fault := fault_of(layer, gradient):
        raise GradientError(fault)


@dataclass(frozen=True)
class Payload:
    """What one node says of its gradients, as bytes that tell all that is needed to decode them."""

    octets: Tensor = field(repr=False)
    kept: int
    """gradient values in it, as many as it has coordinates: without what a basis is made of, as PowerSGD's factor P"""

    def __bytes__(self) -> bytes:
        return self.octets.numpy().tobytes()

    def __len__(self) -> int:
        return self.octets.numel()


@dataclass(frozen=True)
class Exchanged:
    """The outcome of an exchange, in the order of its layers: gradients averaged over the nodes, and what this node
    alone said. Where the means are written into the gradients, what it said of tensors sent dense is lost to them."""

    mean: list[Tensor]
    said: list[Coded]


class Compressor:
    """One of the catalogue's compressors, for the layers of one model.

    Without `layers`, they are those of the first gradients that it meets, called by their numbers. Alone (`encode`,
    `decode`) or in a ring (`rounds`), it keeps its residuals and its step. With `automatic`, its density, if it has
    one, follows the link.
    """

    def __init__(
        self,
        settings: CompressorSettings,
        layers: Sequence[Layer] | None = None,
        seed: int = 0,
        automatic: AutomaticDensity | None = None,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self._automatic = automatic
        self.step = 0
        self._method: Method | None = None
        self.layers: dict[str, Layer] = {}
        if layers is not None:
            self._bind(layers)

    @property
    def reduction(self) -> Reduction:
        """How its payloads travel: summed (*aligned*) or gathered (*private*)."""
        return self.settings.reduction

    def _bind(self, layers: Sequence[Layer]) -> Method:
        self.layers = {layer.name: layer for layer in numbered(layers)}
        if len(self.layers) < len(layers):
            raise ValueError(f"layers: found {len(layers)} with {len(self.layers)} different names")
        self._method = build(self.settings, list(self.layers.values()), self._automatic)
        return self._method

    def _method_for(self, gradients: Sequence[Tensor]) -> Method:
        if self._method is None:
            return self._bind([Layer(str(i), tuple(g.shape)) for i, g in enumerate(gradients)])
        if len(gradients) != len(self.layers):
            raise GradientError(f"gradients: found {len(gradients)}, expected {len(self.layers)}")
        return self._method

    def encode(self, gradients: Sequence[Tensor]) -> Payload:
        """What one node would say of all its gradients (float32, in the layers' order; left alone).

        Raises GradientError where one is not finite or does not fit its layer, before anything is changed; or where
        what is to be said of it is beyond float32."""
        method = self._method_for(gradients)
        for layer, gradient in zip(self.layers.values(), gradients, strict=True):
            check(layer, gradient)
        coded, _ = alone(method.compress(list(self.layers), gradients, self._context()))
        self.step += 1
        return Payload(codec.pack(self.settings.wire_id, coded), sum(one.values for one in coded))

    def decode(self, payload: Payload | bytes) -> list[Tensor]:
        """The gradients that a payload stands for, float32, in the layers' order.

        Raises PayloadError for bytes that are no payload of this compressor about these layers."""
        octets = payload.octets if isinstance(payload, Payload) else tensor_of(payload)
        layers = list(self.layers.values()) if self._method is not None else None
        coded = codec.unpack(octets, self.settings.wire_id, layers, self.reduction)
        return [one.decoded() for one in coded]

    def size_bound(self, gradients: Sequence[Tensor]) -> int:
        """Bytes that the next payload of such gradients will not exceed."""
        return self._size(self._method_for(gradients).bound)

    def expected_size(self, gradients: Sequence[Tensor]) -> int:
        """About as many bytes as a payload has after warm-up; where a threshold decides, as if little exceeded it."""
        return self._size(self._method_for(gradients).expected)

    def _size(self, of: Callable[[Layer, StepContext], int]) -> int:
        sections = (codec.section_size(layer, of(layer, self._context())) for layer in self.layers.values())
        return codec.HEADER.size + sum(sections)

    def observe(self, computing: float, exchanging: float) -> None:
        """What a step took this node, s: its own computing, and its exchange. For a density that follows the link."""
        if isinstance(self._method, LinkAware):
            self._method.observe(computing, exchanging)

    @property
    def density(self) -> float | None:
        """That of the latest exchange where it follows the link, else the settings' own; None: the method has none."""
        if isinstance(self._method, LinkAware):
            return self._method.used
        return getattr(self.settings, "density", None)

    @property
    def corrected(self) -> frozenset[str]:
        """Names of the layers whose averaged gradients come with momentum, to which the optimiser is to add none."""
        return self._method.corrected if self._method is not None else frozenset()

    def _context(self) -> StepContext:
        return StepContext(step=self.step, seed=self.seed)

    def rounds(
        self,
        names: Sequence[str],
        gradients: Sequence[Tensor],
        context: StepContext,
        into: Sequence[Tensor] | None = None,
    ) -> Rounds[Exchanged]:
        """Exchange these layers' gradients among the nodes of a ring: each exactly once a step, in any grouping.

        The means are written `into` tensors, which may be the gradients themselves; None: into new ones.
        Raises GradientError on every node, before anything is averaged, where a gradient of any node is not finite or
        does not fit; PayloadError where a message cannot be decoded.
        """
        if self._method is None:
            raise ValueError("a compressor in a ring is made for the layers of its model")
        fault = ""
        for name, gradient in zip(names, gradients, strict=True):
            if name not in self.layers:
                raise GradientError(f"layer {name}: unknown to this {self.settings.name} compressor")
            fault = fault or fault_of(self.layers[name], gradient)
        if fault and context.world_size == 1:
            raise GradientError(fault)
        if fault:
            gradients = [torch.zeros(self.layers[name].shape) for name in names]
        if into is None:
            into = [torch.empty(self.layers[name].shape) for name in names]
        return _told(self._exchange(self._method, names, gradients, context, into), fault, context.rank)

    def _exchange(
        self,
        method: Method,
        names: Sequence[str],
        gradients: Sequence[Tensor],
        context: StepContext,
        into: Sequence[Tensor],
    ) -> Rounds[Exchanged]:
        coded = yield from method.compress(names, gradients, context)
        aligned = [one for one in coded if one.reduction == "aligned"]
        private = [one for one in coded if one.reduction == "private"]
        summed: list[Coded] = []
        for dtype in dict.fromkeys(summed_as(one) for one in aligned):
            group = [one for one in aligned if summed_as(one) == dtype]
            data = torch.cat([one.octets for one in group]).view(dtype)
            # In a round of no entries, a node could not tell the others of a fault.
            total = (yield Round.aligned(data, values=sum(one.values for one in group))) if len(data) else data
            parts = total.view(torch.uint8).split([one.octets.numel() for one in group])
            summed += [replace(one, octets=part) for one, part in zip(group, parts, strict=True)]
        messages: list[Tensor] = []
        if private:
            message = codec.pack(self.settings.wire_id, private)
            messages = yield Round.private(message, values=sum(one.values for one in private))

        totals = {self.layers[name].number: tensor.zero_() for name, tensor in zip(names, into, strict=True)}
        for one in summed:
            method.hear(one)
            one.add_to(totals[one.layer.number])
        layers = [one.layer for one in private]
        for rank, message in enumerate(messages):
            try:
                own = rank == context.rank  # need not be read to be known
                for one in private if own else codec.unpack(message, self.settings.wire_id, layers):
                    one.add_to(totals[one.layer.number])
            except PayloadError as error:
                raise PayloadError(f"message of rank {rank}: {error}") from error
        for name in names:
            layer = self.layers[name]
            method.average(layer, totals[layer.number], context.world_size)
        return Exchanged(list(into), coded)

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, and whose it is: a run goes on from it exactly."""
        return {
            "settings": self._all_settings(),
            "layers": None if self._method is None else [(layer.name, layer.shape) for layer in self.layers.values()],
            "step": self.step,
            "seed": self.seed,
            "method": None if self._method is None else self._method.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the compressor whose state it is; one without layers takes those of the state.

        Raises ValueError, before anything is changed, where that has other settings or other layers."""
        found, expected = state.get("settings", {}), self._all_settings()
        for key in expected | found:
            if found.get(key) != expected.get(key):
                raise ValueError(
                    f"state of another compressor: found {key} {found.get(key)!r}, expected {expected.get(key)!r}"
                )
        layers = list(self.layers.values())
        if state["layers"] is not None:
            its = numbered(Layer(name, tuple(shape)) for name, shape in state["layers"])
            if self._method is not None and its != layers:
                one, other = next((a, b) for a, b in zip_longest(its, layers) if a != b)
                raise ValueError(f"state of other layers: found {_described(one)}, expected {_described(other)}")
            layers = its
        if self._method is not None or state["layers"] is not None:
            method = build(self.settings, layers, self._automatic)
            if state["method"] is not None:
                method.load_state_dict(state["method"])
            self.layers, self._method = {layer.name: layer for layer in layers}, method
        self.step, self.seed = state["step"], state["seed"]

    def _all_settings(self) -> dict[str, Any]:
        """In plain types, which any way to save them can hold."""
        return self.settings.model_dump() | {"automatic": self._automatic and self._automatic.model_dump()}


def _described(layer: Layer | None) -> str:
    return f"{layer.name} of shape {layer.shape}" if layer else "none"


def summed_as(one: Coded) -> torch.dtype:
    """The type in which coordinates are summed. Raises TypeError for a coding whose bytes cannot be."""
    if not isinstance(one.coding, Floats):
        raise TypeError(f"layer {one.layer.name}: {one.coding} cannot be summed by a ring all-reduce")
    return one.coding.dtype


def _told(rounds: Rounds[Exchanged], fault: str, rank: int) -> Rounds[Exchanged]:
    """The same rounds, in the first of which a node whose gradients are at fault tells all the others.

    Where sums are taken, it makes them NaN, and what is wrong follows in a round that there would not be otherwise.
    """
    text = tensor_of(FAULT + f"{fault} (rank {rank})".encode() if fault else b"")
    try:
        first = next(rounds)
    except StopIteration as finished:  # there was nothing to be said
        if fault:
            raise GradientError(fault) from None
        outcome: Exchanged = finished.value
        return outcome
    if first.reduction == "private":
        messages = yield Round.private(text) if fault else first
        _raise_faults(messages)
        reply: Any = messages
    else:
        if fault:
            first.data.fill_(torch.nan)
        reply = yield first
        if reply.numel() and bool(reply[0].isnan()):
            messages = yield Round.private(text)
            _raise_faults(messages)
            raise GradientError("the nodes' sum is NaN where each of them is finite")
    try:
        while True:
            reply = yield rounds.send(reply)
    except StopIteration as finished:
        outcome = finished.value
        return outcome


def _raise_faults(messages: Sequence[Tensor]) -> None:
    for message in messages:
        if message[: len(FAULT)].numpy().tobytes() == FAULT:
            raise GradientError(message[len(FAULT) :].numpy().tobytes().decode(errors="replace"))
