"""Compressors of any method on layers of any size, and what they keep."""

from __future__ import annotations

from typing import Any

import torch
from lockstep import exchange
from torch import Tensor

from node_agent.compression import configure, create
from node_agent.compression.base import Layer, Method
from node_agent.compression.build import METHODS, wrapped
from node_agent.compression.compressor import Compressor
from node_agent.compression.feedback import ErrorFeedback
from node_agent.compression.partition import Partition

SHAPES: dict[str, tuple[int, ...]] = {"a": (40, 30), "b": (16, 8, 3, 3), "c": (33, 35)}


def make(name: str, shapes: dict[str, tuple[int, ...]] | None = None, **values: Any) -> Compressor:
    """The compressor of this name, its method put to all layers, also to those that it would average dense."""
    layers = [Layer(layer, shape) for layer, shape in (shapes or SHAPES).items()]
    compressor = create(name, layers, **values)
    settings = compressor.settings
    if settings.name in METHODS:
        compressor._method = wrapped(METHODS[settings.name](settings, list(compressor.layers.values())), settings)
    return compressor


def plain(name: str, shapes: dict[str, tuple[int, ...]] | None = None, **values: Any) -> Compressor:
    """The same without a memory, where it can be without one."""
    return make(name, shapes, **values, **({"error_feedback": False} if memory_is_optional(name) else {}))


def memory_is_optional(name: str) -> bool:
    try:
        return not configure(name, error_feedback=False).error_feedback
    except ValueError:
        return False


def draw(seed: int, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in (shapes or SHAPES).items()}


def memory_of(compressor: Compressor) -> ErrorFeedback | None:
    """The wrapper that keeps the residual."""
    method: Method | None = compressor._method
    while method is not None and not isinstance(method, ErrorFeedback):
        method = method.parts[-1] if isinstance(method, Partition) else getattr(method, "method", None)
    return method


def said(compressor: Compressor, gradients: dict[str, Tensor], step: int = 0) -> dict[str, Tensor]:
    """What one node of its own says of its gradients, decoded."""
    (outcome,), _ = exchange([compressor], [gradients], step)
    return {one.layer.name: one.decoded() for one in outcome.said}
