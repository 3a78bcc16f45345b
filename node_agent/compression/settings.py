"""What a user may set of each compressor. Free of torch, so that files are checked and help is printed at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Reduction = Literal["aligned", "private"]


class SettingError(ValueError):
    """A value that goes with some of the other settings only. Its text says what is allowed."""


class CompressorSettings(BaseModel):
    """Settings common to every compressor."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    wire_id: ClassVar[int]
    """the method in a payload's header; never another's"""
    usual: ClassVar[Reduction]
    summary: ClassVar[str]
    source: ClassVar[str]

    name: str
    error_feedback: bool = Field(
        default=True, description="keep what was not sent and add it to the next step's gradient"
    )

    @property
    def reduction(self) -> Reduction:
        """How payloads travel: *aligned* ones are summed by a ring all-reduce, *private* ones collected by a ring
        all-gather."""
        return self.usual

    @property
    def has_density(self) -> bool:
        return "density" in type(self).model_fields


class SparseSettings(CompressorSettings):
    """Of a method that may begin denser than it goes on."""

    warmup_steps: int = Field(default=0, ge=0, description="steps over which the density falls to its final value")


class _Private(SparseSettings):
    usual = "private"
    values: Literal["float32", "float16", "bfloat16", "int8", "int4"] = Field(
        default="float32", description="how each value sent is written"
    )


class _Aligned(SparseSettings):
    usual = "aligned"
    values: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="how each value sent is written and summed"
    )


def _density(default: float, of: str = "entries") -> Any:
    return Field(default=default, gt=0, le=1, description=f"share of a layer's {of} that is sent")


class AutomaticDensity(BaseModel):
    """Between which bounds a density follows the link."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: float = Field(default=0.001, gt=0, le=1, description="least share of entries that is sent")
    highest: float = Field(default=0.25, gt=0, le=1, description="largest share of entries that is sent")

    @model_validator(mode="after")
    def _ascending(self) -> AutomaticDensity:
        if self.lowest > self.highest:
            raise SettingError("a highest density that is not below the lowest")
        return self


class NoneSettings(CompressorSettings):
    wire_id = 0
    usual = "aligned"
    summary = "dense float32 gradients, the reference"
    source = "Patarasuk and Yuan, JPDC 69(2), 2009 (ring all-reduce)"

    name: Literal["none"] = "none"
    error_feedback: Literal[False] = Field(default=False, description="nothing is left unsent")


class FP16Settings(CompressorSettings):
    wire_id = 1
    usual = "aligned"
    summary = "gradients rounded to half precision"
    source = "Micikevicius et al., Mixed Precision Training, ICLR 2018"

    name: Literal["fp16"] = "fp16"
    error_feedback: bool = Field(default=False, description="feed the rounding error back")


class BF16Settings(CompressorSettings):
    wire_id = 2
    usual = "aligned"
    summary = "gradients rounded to bfloat16: the range of float32 with 8 bits of mantissa"
    source = "Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv 1905.12322"

    name: Literal["bf16"] = "bf16"
    error_feedback: bool = Field(default=False, description="feed the rounding error back")


class TopKSettings(_Private):
    wire_id = 3
    summary = "entries of largest magnitude in each layer"
    source = "Aji and Heafield, EMNLP 2017; Stich et al., NeurIPS 2018"

    name: Literal["topk"] = "topk"
    density: float = _density(0.01)


class RandomKSettings(_Aligned):
    wire_id = 4
    summary = "entries drawn at random, the same on all nodes"
    source = "Stich et al., Sparsified SGD with Memory, NeurIPS 2018; Wangni et al., NeurIPS 2018 (unbiased)"

    name: Literal["randomk"] = "randomk"
    density: float = _density(0.01)
    unbiased: bool = Field(default=False, description="multiply by d / K; takes error_feedback: false")

    @field_validator("unbiased")
    @classmethod
    def _without_feedback(cls, unbiased: bool, info: ValidationInfo) -> bool:
        if unbiased and info.data.get("error_feedback"):
            raise SettingError("false, or true with error_feedback: false")
        return unbiased


class ThresholdSettings(_Private):
    wire_id = 5
    summary = "entries whose magnitude exceeds a threshold"
    source = "Dutta et al., On the Discrepancy between Theory and Practice of Gradient Compression, AAAI 2020"

    name: Literal["threshold"] = "threshold"
    threshold: float = Field(default=0.01, ge=1e-37, le=1e38, description="magnitude above which an entry is sent")
    warmup_steps: Literal[0] = Field(default=0, description="a threshold has no density")


class StromSettings(CompressorSettings):
    wire_id = 6
    usual = "private"
    summary = "the sign of entries whose magnitude exceeds a threshold, each worth the threshold"
    source = "Strom, Scalable Distributed DNN Training using Commodity GPU Cloud Computing, Interspeech 2015"

    name: Literal["strom"] = "strom"
    threshold: float = Field(default=0.01, ge=1e-37, le=1e38, description="tau: what a sign stands for")


class GaussianKSettings(_Private):
    wire_id = 7
    summary = "entries beyond the threshold that a normal distribution has for the density"
    source = "Shi et al., Understanding Top-k Sparsification in Distributed Deep Learning, arXiv 1911.08772"

    name: Literal["gaussiank"] = "gaussiank"
    density: float = _density(0.01)


class DGCSettings(_Private):
    wire_id = 8
    summary = "top-k with momentum correction, factor masking, clipping and warm-up"
    source = "Lin et al., Deep Gradient Compression, ICLR 2018"

    name: Literal["dgc"] = "dgc"
    density: float = _density(0.001)
    warmup_steps: int = Field(default=20, ge=0, description="steps over which the density falls to its final value")
    momentum_correction: float = Field(default=0.9, ge=0, lt=1, description="m, in place of the optimiser's momentum")
    nesterov: bool = Field(default=False, description="momentum after Nesterov")
    clip: float | None = Field(default=None, gt=0, description="limit of a layer's gradient norm, times sqrt(nodes)")
    error_feedback: Literal[True] = Field(default=True, description="the method is built on it")


class AdaCompSettings(CompressorSettings):
    wire_id = 9
    usual = "private"
    summary = "entries that would become their bin's largest with one more gradient like this, as signs"
    source = "Chen et al., AdaComp: Adaptive Residual Gradient Compression, AAAI 2018"

    name: Literal["adacomp"] = "adacomp"
    bin_linear: int = Field(default=500, ge=1, le=2**16, description="L_T of matrices: entries of a bin")
    bin_convolution: int = Field(default=50, ge=1, le=2**16, description="L_T of convolutions")
    soft: float = Field(default=1.0, ge=0, description="c: how much of the newest gradient is added to decide")
    error_feedback: Literal[True] = Field(default=True, description="the method is built on it")


class SignSGDSettings(CompressorSettings):
    wire_id = 10
    usual = "private"
    summary = "signs, of which the majority decides; with momentum: Signum"
    source = "Bernstein et al., signSGD, ICML 2018; signSGD with Majority Vote, ICLR 2019"

    name: Literal["signsgd"] = "signsgd"
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of the average whose sign is sent; 0: the gradient")
    error_feedback: Literal[False] = Field(default=False, description="a majority leaves no residual of one node")


class EFSignSGDSettings(CompressorSettings):
    wire_id = 11
    usual = "private"
    summary = "signs times the mean magnitude of the layer, with error feedback"
    source = "Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019"

    name: Literal["efsignsgd"] = "efsignsgd"


class OneBitSettings(CompressorSettings):
    wire_id = 12
    usual = "private"
    summary = "one bit an entry: the mean of the layer's negative entries, or that of the others"
    source = "Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014"

    name: Literal["onebit"] = "onebit"


class QSGDSettings(CompressorSettings):
    wire_id = 13
    usual = "private"
    summary = "entries rounded at random to levels of their bucket's norm; unbiased"
    source = "Alistarh et al., QSGD, NeurIPS 2017"

    name: Literal["qsgd"] = "qsgd"
    levels: int = Field(default=127, ge=1, le=127, description="s: levels of a magnitude besides zero")
    bucket: int = Field(default=512, ge=0, le=2**20, description="entries of a bucket; 0: the layer is one")
    error_feedback: bool = Field(default=False, description="not needed: what is sent is right in the mean")


class TernGradSettings(CompressorSettings):
    wire_id = 14
    usual = "private"
    summary = "entries rounded at random to -1, 0 or 1 times the layer's largest; unbiased after clipping"
    source = "Wen et al., TernGrad, NeurIPS 2017"

    name: Literal["terngrad"] = "terngrad"
    clip: float | None = Field(default=2.5, gt=0, description="standard deviations at which entries are clipped")
    error_feedback: bool = Field(default=False, description="not needed: what is sent is right in the mean")


class PowerSGDSettings(CompressorSettings):
    wire_id = 15
    usual = "aligned"
    summary = "a low-rank approximation by one power iteration a step, warm-started"
    source = "Vogels et al., PowerSGD, NeurIPS 2019"

    name: Literal["powersgd"] = "powersgd"
    rank: int = Field(default=2, ge=1, le=1024, description="of the approximation")
    warm_start: bool = Field(default=True, description="begin with the factor of the step before")


class CLTKSettings(_Aligned):
    wire_id = 16
    summary = "the top-k entries of one node, taking turns, are sent by all"
    source = "Chen et al., ScaleCom, NeurIPS 2020"

    name: Literal["cltk"] = "cltk"
    density: float = _density(0.01)
    low_pass: float = Field(
        default=1.0, gt=0, le=1, description="beta: share of the newest in the residual; 1: plain error feedback"
    )

    @field_validator("low_pass")
    @classmethod
    def _with_feedback(cls, beta: float, info: ValidationInfo) -> float:
        if beta < 1 and not info.data.get("error_feedback", True):
            raise SettingError("1, or a number below it with error_feedback: true")
        return beta


class ARCTopKSettings(_Aligned):
    wire_id = 17
    summary = "rows that are largest in an all-reduced sketch of the gradient"
    source = "Chen et al., ARC-Top-K, arXiv 2510.26709 (convolutions: one row an output)"

    name: Literal["arctopk"] = "arctopk"
    density: float = _density(0.01, "rows")
    sketch: int = Field(default=4, ge=1, le=64, description="columns of the sketch")


class GCCSettings(CompressorSettings):
    wire_id = 18
    usual = "aligned"
    summary = "rows nearest the layer's centroid replaced by their mean; mask agreed by all-reduced scores"
    source = "GCC, IEEE TNNLS 36(8), 2025, doi 10.1109/TNNLS.2024.3517535 (reconstruction from the abstract)"

    name: Literal["gcc"] = "gcc"
    density: float = Field(default=0.5, gt=0, le=1, description="share of a layer's rows that is sent as it is")
    selector: Literal["centroid", "fpgm", "geometric_median", "norm", "random"] = Field(
        default="centroid", description="by which rows are replaceable: distance to a centre, size, or nothing"
    )
    fill: Literal["mean_dropped", "centroid", "zero"] = Field(
        default="mean_dropped", description="what stands for the rows that are not sent"
    )
    mask: Literal["scores", "leader", "local"] = Field(
        default="scores", description="whose rows: by the sum of all nodes' scores, one node's in turn, each its own"
    )

    @property
    def reduction(self) -> Reduction:
        return "private" if self.mask == "local" else "aligned"


class NSISettings(_Private):
    wire_id = 19
    summary = "p x p neighbourhoods of largest indicator, densities following the layers"
    source = "RS-DGC, IEEE TGRS 2024, doi 10.1109/TGRS.2024.3394501 (reconstruction from the abstract)"

    WINDOWS: ClassVar[tuple[str, ...]] = (
        "zscore",
        "mag_x_stat",
        "contrast",
        "std",
        "absmean_plus_std",
        "mean_plus_std",
        "snr",
    )

    name: Literal["nsi"] = "nsi"
    density: float = Field(default=0.02, gt=0, le=1, description="share of all compressed entries that is sent")
    kind: Literal[
        "tile_mean_std",
        "tile_absmean_std",
        "zscore",
        "mag_x_stat",
        "contrast",
        "std",
        "absmean_plus_std",
        "mean_plus_std",
        "snr",
        "abs",
    ] = Field(default="tile_mean_std", description="the indicator: of tiles, of windows around each entry, or top-k")
    neighbourhood: int = Field(default=3, ge=1, le=63, description="p, the side of a tile or window; odd for windows")
    weights: tuple[float, float] = Field(default=(1.0, 1.0), description="a and b in a * mean + b * deviation")
    view: Literal["kernels", "rows"] = Field(
        default="kernels", description="a layer's matrix: kernels as blocks, or a row an output"
    )
    layer_rule: Literal["uniform", "proportional", "relative_change", "global_threshold"] = Field(
        default="proportional",
        description="density of a layer: the same in all, by its importance or that since warm-up, or one threshold",
    )
    rms_power: float = Field(
        default=0.0, ge=0, le=1, description="of a layer's RMS, by which that threshold is divided"
    )
    smoothing: float = Field(default=0.9, ge=0, lt=1, description="of a layer's importance from step to step")
    warmup_steps: int = Field(default=20, ge=0, description="steps over which the density falls to its final value")
    momentum_correction: float = Field(default=0.0, ge=0, lt=1, description="m, in place of the optimiser's momentum")
    nesterov: bool = Field(default=False, description="momentum after Nesterov")
    clip: float | None = Field(default=None, gt=0, description="limit of a layer's gradient norm, times sqrt(nodes)")

    @field_validator("neighbourhood")
    @classmethod
    def _centred(cls, side: int, info: ValidationInfo) -> int:
        kind = info.data.get("kind", "")
        if kind == "zscore" and side == 1:
            raise SettingError("3, 5, …, 63 with kind: zscore, to which an entry by itself says nothing")
        if kind in cls.WINDOWS and side % 2 == 0:
            raise SettingError(f"1, 3, …, 63 with kind: {kind}, whose windows are centred on an entry")
        return side

    @field_validator("weights")
    @classmethod
    def _weighing(cls, weights: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if not all(0 <= weight <= 1000 for weight in weights) or not any(weights):
            raise SettingError("two numbers of 0 to 1000, not both 0")
        if weights != (1, 1) and info.data.get("kind") in ("zscore", "std", "snr", "abs"):
            raise SettingError(f"[1, 1] with kind: {info.data['kind']}, which is no sum of mean and deviation")
        return weights

    @field_validator("rms_power")
    @classmethod
    def _of_threshold(cls, power: float, info: ValidationInfo) -> float:
        if power and info.data.get("layer_rule") != "global_threshold":
            raise SettingError("0, or a number up to 1 with layer_rule: global_threshold")
        return power

    @field_validator("momentum_correction", "clip")
    @classmethod
    def _with_feedback(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value and not info.data.get("error_feedback", True):
            raise SettingError("no other than the default without error_feedback: true")
        return value

    @field_validator("nesterov")
    @classmethod
    def _with_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and not info.data.get("momentum_correction"):
            raise SettingError("false, or true with a momentum_correction above 0")
        return nesterov


@dataclass(frozen=True)
class _OrName:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": list(CATALOGUE)}, handler(schema)]}


def _part(default: CompressorSettings, of: str) -> Any:
    return Field(default=default, description=f"the compressor of {of} tensors: its name, or a mapping of its settings")


class SizeAdaptiveSettings(CompressorSettings):
    wire_id = 20
    usual = "private"
    summary = "one compressor for small tensors, another for large ones"
    source = "hivemind (learning-at-home), SizeAdaptiveCompression"

    name: Literal["size-adaptive"] = "size-adaptive"
    threshold: int = Field(default=2**16, ge=1, description="entries from which on a tensor is large")
    smaller: NamedCompressorSettings = _part(FP16Settings(), "small")
    larger: NamedCompressorSettings = _part(QSGDSettings(), "large")
    error_feedback: Literal[False] = Field(default=False, description="each of the two has its own")

    @property
    def reduction(self) -> Reduction:
        return "private" if "private" in (self.smaller.reduction, self.larger.reduction) else "aligned"


AnyCompressorSettings = Annotated[
    Union[  # noqa: UP007
        NoneSettings,
        FP16Settings,
        BF16Settings,
        TopKSettings,
        RandomKSettings,
        ThresholdSettings,
        StromSettings,
        GaussianKSettings,
        DGCSettings,
        AdaCompSettings,
        SignSGDSettings,
        EFSignSGDSettings,
        OneBitSettings,
        QSGDSettings,
        TernGradSettings,
        PowerSGDSettings,
        CLTKSettings,
        ARCTopKSettings,
        GCCSettings,
        NSISettings,
        SizeAdaptiveSettings,
    ],
    Field(discriminator="name"),
]
NamedCompressorSettings = Annotated[
    AnyCompressorSettings,
    BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
    _OrName(),
]
"""A name alone stands for a compressor as it is by default."""

SizeAdaptiveSettings.model_rebuild()

CATALOGUE: dict[str, type[CompressorSettings]] = {
    settings.model_fields["name"].default: settings for settings in get_args(get_args(AnyCompressorSettings)[0])
}
"""Every compressor by the name that a topology file gives it."""
