"""What a user may set of each compressor. Free of torch, so that files are checked and help is printed at once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

Reduction = Literal["aligned", "private"]


class CompressorSettings(BaseModel):
    """Settings common to every compressor. `reduction` tells how its payloads travel: *aligned* ones are summed by
    a ring all-reduce, *private* ones are collected by a ring all-gather."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: ClassVar[Reduction]
    summary: ClassVar[str]
    source: ClassVar[str]

    error_feedback: bool = Field(
        default=True, description="keep what was not sent and add it to the next step's gradient"
    )


class NoneSettings(CompressorSettings):
    reduction = "aligned"
    summary = "dense float32 gradients, the reference"
    source = "Patarasuk and Yuan, JPDC 69(2), 2009 (ring all-reduce)"

    name: Literal["none"] = "none"
    error_feedback: Literal[False] = Field(default=False, description="nothing is left unsent")


class FP16Settings(CompressorSettings):
    reduction = "aligned"
    summary = "gradients rounded to half precision"
    source = "Micikevicius et al., Mixed Precision Training, ICLR 2018"

    name: Literal["fp16"] = "fp16"
    error_feedback: bool = Field(default=False, description="feed the rounding error back")


class TopKSettings(CompressorSettings):
    reduction = "private"
    summary = "entries of largest magnitude in each layer"
    source = "Aji and Heafield, EMNLP 2017; Stich et al., NeurIPS 2018"

    name: Literal["topk"] = "topk"
    density: float = Field(default=0.01, gt=0, le=1, description="share of a layer's entries that is sent")


class GCCSettings(CompressorSettings):
    reduction = "aligned"
    summary = "rows nearest the layer's centroid replaced by their mean; mask agreed by all-reduced scores"
    source = "GCC, IEEE TNNLS 36(8), 2025, doi 10.1109/TNNLS.2024.3517535 (reconstruction from the abstract)"

    name: Literal["gcc"] = "gcc"
    density: float = Field(default=0.5, gt=0, le=1, description="share of a layer's rows that is sent as it is")


class NSISettings(CompressorSettings):
    reduction = "private"
    summary = "p x p tiles of largest mean + standard deviation of magnitude, densities following the layers"
    source = "RS-DGC, IEEE TGRS 2024, doi 10.1109/TGRS.2024.3394501 (reconstruction from the abstract)"

    name: Literal["nsi"] = "nsi"
    density: float = Field(default=0.02, gt=0, le=1, description="share of all compressed entries that is sent")
    neighbourhood: int = Field(default=3, ge=1, le=64, description="p, the side of a tile")
    layer_rule: Literal["uniform", "proportional"] = Field(
        default="proportional", description="same density in every layer, or following its mean NSI"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="smoothing of a layer's importance from step to step")
    warmup_steps: int = Field(default=20, ge=0, description="steps over which the density falls to its final value")


AnyCompressorSettings = Annotated[
    Union[NoneSettings, FP16Settings, TopKSettings, GCCSettings, NSISettings],  # noqa: UP007
    Field(discriminator="name"),
]

CATALOGUE: dict[str, type[CompressorSettings]] = {
    "none": NoneSettings,
    "fp16": FP16Settings,
    "topk": TopKSettings,
    "gcc": GCCSettings,
    "nsi": NSISettings,
}
"""Every compressor by the name that a topology file gives it."""
