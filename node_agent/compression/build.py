"""From a compressor's settings to the method that does it, with all that goes around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from node_agent.compression.adacomp import AdaComp
from node_agent.compression.arctopk import ARCTopK
from node_agent.compression.automatic import LinkAware
from node_agent.compression.base import Layer, Method
from node_agent.compression.bf16 import BF16
from node_agent.compression.cltk import CLTK
from node_agent.compression.dgc import DGC
from node_agent.compression.efsignsgd import EFSignSGD
from node_agent.compression.feedback import ErrorFeedback, LowPass
from node_agent.compression.fp16 import FP16
from node_agent.compression.gaussiank import GaussianK
from node_agent.compression.gcc import GCC
from node_agent.compression.momentum import MomentumCorrection
from node_agent.compression.none import Dense
from node_agent.compression.nsi import NSI
from node_agent.compression.onebit import OneBit
from node_agent.compression.partition import Partition
from node_agent.compression.powersgd import PowerSGD
from node_agent.compression.qsgd import QSGD
from node_agent.compression.randomk import RandomK
from node_agent.compression.settings import (
    AutomaticDensity,
    CLTKSettings,
    CompressorSettings,
    DGCSettings,
    NoneSettings,
    NSISettings,
    SizeAdaptiveSettings,
    SparseSettings,
)
from node_agent.compression.signsgd import SignSGD
from node_agent.compression.strom import Strom
from node_agent.compression.terngrad import TernGrad
from node_agent.compression.threshold import Threshold
from node_agent.compression.topk import TopK
from node_agent.compression.warmup import WarmUp

METHODS: dict[str, Any] = {
    "none": Dense,
    "fp16": FP16,
    "bf16": BF16,
    "topk": TopK,
    "randomk": RandomK,
    "threshold": Threshold,
    "strom": Strom,
    "gaussiank": GaussianK,
    "dgc": DGC,
    "adacomp": AdaComp,
    "signsgd": SignSGD,
    "efsignsgd": EFSignSGD,
    "onebit": OneBit,
    "qsgd": QSGD,
    "terngrad": TernGrad,
    "powersgd": PowerSGD,
    "cltk": CLTK,
    "arctopk": ARCTopK,
    "gcc": GCC,
    "nsi": NSI,
}
"""by the name of their settings; each is made of these and of the layers that it takes"""


def build(settings: CompressorSettings, layers: Sequence[Layer], automatic: AutomaticDensity | None = None) -> Method:
    """The method for these layers. Those that it does not take are averaged dense. With `automatic`, its density, if it
    has one, follows the link."""
    if automatic is not None and settings.has_density:
        warmup_steps = settings.warmup_steps if isinstance(settings, SparseSettings) else 0
        density: float = settings.density  # type: ignore[attr-defined]
        return LinkAware(build(settings, layers), density, automatic, warmup_steps)
    if isinstance(settings, SizeAdaptiveSettings):
        small = [layer for layer in layers if layer.numel < settings.threshold]
        large = [layer for layer in layers if layer.numel >= settings.threshold]
        return Partition([build(settings.smaller, small), build(settings.larger, large)])
    make = METHODS[settings.name]
    taken = [layer for layer in layers if make.takes(layer)]
    method = wrapped(make(settings, taken), settings)
    if len(taken) == len(layers):
        return method
    return Partition([Dense(NoneSettings(), [layer for layer in layers if layer not in taken]), method])


def wrapped(method: Method, settings: CompressorSettings) -> Method:
    """The method with warm-up and memory, where its settings have them."""
    if isinstance(settings, SparseSettings) and settings.warmup_steps:
        method = WarmUp(method, settings.density, settings.warmup_steps)  # type: ignore[attr-defined]
    if isinstance(method, ErrorFeedback) or not settings.error_feedback:
        return method
    if isinstance(settings, (DGCSettings, NSISettings)) and (settings.momentum_correction or settings.clip):
        return MomentumCorrection(method, settings.momentum_correction, settings.nesterov, settings.clip)
    if isinstance(settings, CLTKSettings) and settings.low_pass < 1:
        return LowPass(method, settings.low_pass)
    return ErrorFeedback(method)
