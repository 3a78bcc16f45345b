"""From a compressor's settings to the method that does it, with all that goes around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from node_agent.compression.base import Layer, Method
from node_agent.compression.bf16 import BF16
from node_agent.compression.efsignsgd import EFSignSGD
from node_agent.compression.feedback import ErrorFeedback
from node_agent.compression.fp16 import FP16
from node_agent.compression.gcc import GCC
from node_agent.compression.momentum import MomentumCorrection
from node_agent.compression.none import Dense
from node_agent.compression.nsi import NSI
from node_agent.compression.onebit import OneBit
from node_agent.compression.partition import Partition
from node_agent.compression.powersgd import PowerSGD
from node_agent.compression.qsgd import QSGD
from node_agent.compression.settings import CompressorSettings, NoneSettings, SizeAdaptiveSettings
from node_agent.compression.signsgd import SignSGD
from node_agent.compression.terngrad import TernGrad
from node_agent.compression.topk import TopK
from node_agent.compression.warmup import WarmUp

METHODS: dict[str, Any] = {
    "none": Dense,
    "fp16": FP16,
    "bf16": BF16,
    "topk": TopK,
    "signsgd": SignSGD,
    "efsignsgd": EFSignSGD,
    "onebit": OneBit,
    "qsgd": QSGD,
    "terngrad": TernGrad,
    "powersgd": PowerSGD,
    "gcc": GCC,
    "nsi": NSI,
}
"""by the name of their settings; each is made of these and of the layers that it takes"""


def build(settings: CompressorSettings, layers: Sequence[Layer]) -> Method:
    """The method for these layers. Those that it does not take are averaged dense."""
    if isinstance(settings, SizeAdaptiveSettings):
        small = [layer for layer in layers if layer.numel < settings.threshold]
        large = [layer for layer in layers if layer.numel >= settings.threshold]
        return Partition([build(settings.smaller, small), build(settings.larger, large)])
    make = METHODS[settings.name]
    taken = [layer for layer in layers if make.takes(layer)]
    method = _wrapped(make(settings, taken), settings)
    if len(taken) == len(layers):
        return method
    return Partition([Dense(NoneSettings(), [layer for layer in layers if layer not in taken]), method])


def _wrapped(method: Method, settings: CompressorSettings) -> Method:
    """The method with warm-up and memory, where its settings have them."""
    warmup_steps = getattr(settings, "warmup_steps", 0)
    if warmup_steps:
        method = WarmUp(method, settings.density, warmup_steps)  # type: ignore[attr-defined]
    momentum = getattr(settings, "momentum_correction", 0.0)
    if momentum:
        return MomentumCorrection(
            method, momentum, getattr(settings, "nesterov", False), getattr(settings, "clip", None)
        )
    return ErrorFeedback(method) if settings.error_feedback else method
