"""Device profiles: what a board is, what it can reach in each power mode, and how far each figure can be trusted.

A profile is a YAML file, one a board, in jetson/devices (in an installed package: edgesim/device_profiles). Every
figure names its source, or is marked unverified; what is not known is absent, and what would depend on it is refused.

The peak of a mode is that of its GPU in FP32, two operations (a fused multiply-add) a core and cycle:

    P = 2 x cores x TPCs on / TPCs x GPU clock

and its memory bandwidth is that of the board, in proportion to the memory clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import RenderableType
from rich.table import Table

from edgesim.topology.problems import Refusal, closest, dotted, listed, shown
from node_agent.job import Roofline

HOST = "host"
"""the device of a node whose computing takes what it takes on this machine"""

_PLACES = (Path(__file__).parent / "device_profiles", Path(__file__).parent.parent / "jetson" / "devices")


class DeviceError(ValueError):
    """A profile that cannot be read, or that says too little for what it is asked. One line, for people."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Marked(Section):
    """Something that has a source, a key of the profile's `sources`, or is marked as having none that was read."""

    source: str | None = None
    unverified: bool = False

    @model_validator(mode="after")
    def _marked_once(self) -> Marked:
        if (self.source is None) == (not self.unverified):
            raise ValueError("found both or neither, allowed either a source or unverified: true")
        return self


class Figure(Marked):
    value: float = Field(gt=0)


class Fact(Marked):
    value: str


class Mode(Marked):
    """A power mode (nvpmodel): what is left on, and the clocks that it allows. The mark is that of all its figures."""

    id: int | None = Field(default=None, ge=0)
    cpu_cores: int | None = Field(default=None, ge=1)
    cpu_mhz: float | None = Field(default=None, gt=0)
    gpu_mhz: float | None = Field(default=None, gt=0)
    tpc: int | None = Field(default=None, ge=1, description="texture processing clusters left on; None: all")
    emc_mhz: float | None = Field(default=None, gt=0, description="memory clock; None: not limited")


class Cpu(Section):
    kind: str
    cores: Figure
    mhz: Figure | None = None


class Gpu(Section):
    kind: str
    cores: Figure
    tensor_cores: Figure | None = None
    tpc: Figure | None = None
    mhz: Figure | None = None
    compute_capability: Fact


class Memory(Section):
    gb: Figure
    visible_mb: Figure | None = Field(default=None, description="what the system of such a board shows")
    gb_s: Figure = Field(description="bandwidth, at the memory clock emc_mhz")
    emc_mhz: Figure | None = None


class Power(Section):
    """Of the whole board, in one power mode; of no mode where it is not known in which it was seen."""

    idle_w: Figure | None = None
    loaded_w: Figure | None = None
    mode: str | None = None


class Efficiency(Section):
    """How much of the board's bounds kernels reach."""

    compute: Figure = Field(description="share of the peak, eta_c")
    memory: Figure = Field(description="share of the bandwidth, eta_m")
    launch_us: Figure | None = Field(default=None, description="what each kernel takes besides")


class Repeated(Section):
    """What something took, s; `spread` is the distance between the quartiles, as a share of the median."""

    best_s: float = Field(ge=0)
    median_s: float = Field(ge=0)
    spread: float = Field(ge=0)
    repetitions: int = Field(ge=1)


class Product(Repeated):
    size: int = Field(description="rows and columns of either matrix")
    flop_s: float


class Copied(Repeated):
    bytes: int
    byte_s: float = Field(description="read and written")


class MeasuredStep(Repeated):
    """Of background learning with the default network, without its exchange."""

    batch: int
    parameters: int
    fitted: bool = Field(description="whether efficiency.compute was taken from this step")
    modelled_s: float = Field(description="what the profile's roofline makes of it")


class Coding(Section):
    bytes: int = Field(description="of a payload")
    encode: Repeated
    decode: Repeated


class Calibration(Section):
    """What `node-agent bench` has measured; for people, nothing is computed from it."""

    date: str
    device: str
    versions: dict[str, str]
    matrix_products: list[Product]
    copies: list[Copied]
    launch: Repeated
    steps: list[MeasuredStep]
    gradients: int = Field(description="values that each compressor was given")
    compressors: dict[str, Coding]


class Device(Section):
    board: str
    module: Fact
    last_jetpack: Fact
    cpu: Cpu
    gpu: Gpu
    memory: Memory
    modes: dict[str, Mode] = Field(min_length=1)
    default_mode: str
    power: Power = Power()
    efficiency: Efficiency
    calibration: Calibration | None = None
    sources: dict[str, str]

    @model_validator(mode="after")
    def _sound(self) -> Device:
        for field, mode in (("default_mode", self.default_mode), ("power.mode", self.power.mode)):
            if mode is not None and mode not in self.modes:
                raise ValueError(f"{field}: found {mode!r}, allowed {listed(self.modes)}")
        for field, marked in _marked(self):
            if marked.source is not None and marked.source not in self.sources:
                raise ValueError(f"{field}: found source {marked.source!r}, allowed {listed(self.sources)}")
        return self

    def peak_flop_s(self, mode: str) -> float | None:
        """FP32 operations a second; None where the mode's GPU clock is not known."""
        chosen = self.modes[mode]
        if chosen.gpu_mhz is None or (chosen.tpc is not None and self.gpu.tpc is None):
            return None
        on = 1.0 if chosen.tpc is None or self.gpu.tpc is None else chosen.tpc / self.gpu.tpc.value
        return 2 * self.gpu.cores.value * on * chosen.gpu_mhz * 1e6

    def byte_s(self, mode: str) -> float | None:
        """Memory bandwidth; None where the memory clock to which the board's bandwidth belongs is not known."""
        clock, full = self.modes[mode].emc_mhz, self.memory.emc_mhz
        if clock is None:
            return self.memory.gb_s.value * 1e9
        return None if full is None else self.memory.gb_s.value * 1e9 * clock / full.value

    def roofline(self, mode: str) -> Roofline:
        """What kernels reach in a mode. Raises DeviceError where a figure that it takes is not known."""
        peak, bandwidth = self.peak_flop_s(mode), self.byte_s(mode)
        if peak is None or bandwidth is None:
            missing = "the GPU's clock" if peak is None else "the memory's clock"
            raise DeviceError(f"{self.board}: {missing} in mode {mode} is not known, so that no time can be computed")
        of, launch = self.efficiency, self.efficiency.launch_us
        return Roofline(
            flop_s=of.compute.value * peak,
            byte_s=of.memory.value * bandwidth,
            launch_s=0.0 if launch is None else launch.value * 1e-6,
        )

    def doubts(self, mode: str) -> list[str]:
        """The figures that a mode's roofline rests on without a source."""
        used: dict[str, Marked | None] = {
            "gpu.cores": self.gpu.cores,
            f"modes.{mode}": self.modes[mode],
            "gpu.tpc": self.gpu.tpc if self.modes[mode].tpc is not None else None,
            "memory.gb_s": self.memory.gb_s,
            "memory.emc_mhz": self.memory.emc_mhz if self.modes[mode].emc_mhz is not None else None,
            "efficiency.compute": self.efficiency.compute,
            "efficiency.memory": self.efficiency.memory,
            "efficiency.launch_us": self.efficiency.launch_us,
        }
        unverified = [field for field, marked in used.items() if marked is not None and marked.unverified]
        unknown = ["efficiency.launch_us (not known, taken as 0)"] if self.efficiency.launch_us is None else []
        return unverified + unknown

    def power_w(self, mode: str) -> tuple[float, float] | None:
        """At rest and loaded, W; None where either is not known in this mode."""
        of = self.power
        if of.mode != mode or of.idle_w is None or of.loaded_w is None:
            return None
        return of.idle_w.value, of.loaded_w.value

    def marks(self) -> tuple[int, int]:
        """How many of the profile's figures are unverified, and how many there are."""
        marks = [marked.unverified for _, marked in _marked(self)]
        return sum(marks), len(marks)


def _marked(section: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Marked]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        inner = value if isinstance(value, dict) else {None: value}
        for key, one in inner.items():
            place = (*path, name) if key is None else (*path, name, key)
            if isinstance(one, Marked):
                yield dotted(place), one
            elif isinstance(one, Section):
                yield from _marked(one, place)


def known() -> dict[str, Path]:
    """The profiles that come with the project, by name."""
    for place in _PLACES:
        if place.is_dir():
            return {path.stem: path for path in sorted(place.glob("*.yaml"))}
    raise DeviceError(f"no device profiles: neither {_PLACES[0]} nor {_PLACES[1]} is there")


def load(device: str) -> Device:
    """The profile of that name, or in that file (one whose name ends in .yaml).

    Raises Refusal where there is no such device, and DeviceError where its profile is unsound.
    """
    if device.endswith((".yaml", ".yml")):
        return _read(Path(device))
    profiles = known()
    if device not in profiles:
        raise Refusal(
            f"{shown(device)}, which is no device",
            f"{HOST}, a name that `edgesim devices` lists, or a profile of your own (.yaml)",
            closest(device, [HOST, *profiles]),
        )
    return _read(profiles[device])


@cache
def _read(path: Path) -> Device:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: cannot read: {error.strerror}") from error
    return parse(content, str(path))


def parse(profile: bytes, origin: str) -> Device:
    """A profile as its file holds it; `origin` is what messages call it. Raises DeviceError where it is unsound."""
    try:
        content: Any = yaml.safe_load(profile.decode())
    except UnicodeDecodeError as error:
        raise DeviceError(f"{origin}: cannot read: not a text file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise DeviceError(f"{origin}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return Device.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join(filter(None, (origin, dotted(first["loc"]))))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        found = "" if "error" in first.get("ctx", {}) else f"found {shown(first['input'])}: "
        raise DeviceError(f"{place}: {found}{reason}{more}") from None


def entries() -> list[dict[str, Any]]:
    """One entry per profile that comes with the project, in SI units. Raises DeviceError where one is unsound."""
    found = []
    for name in known():
        device = load(name)
        unverified, figures = device.marks()
        found.append(
            {
                "name": name,
                "board": device.board,
                "gpu": device.gpu.kind,
                "memory_bytes": device.memory.gb.value * 1e9,
                "default_mode": device.default_mode,
                "modes": {
                    mode: {
                        "peak_flop_s": device.peak_flop_s(mode),
                        "memory_byte_s": device.byte_s(mode),
                        "power_w": dict(zip(("idle", "loaded"), device.power_w(mode) or (None, None), strict=True)),
                        "doubts": device.doubts(mode),
                    }
                    for mode in device.modes
                },
                "figures": figures,
                "unverified": unverified,
            }
        )
    return found


def render(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("device", "mode", "peak FP32", "bandwidth", "memory", "idle, loaded", "unverified"):
        table.add_column(column, justify="left" if column in ("device", "mode") else "right")
    for entry in entries:
        for mode, of in entry["modes"].items():
            first = mode == next(iter(entry["modes"]))
            power = of["power_w"]
            table.add_row(
                entry["name"] if first else "",
                f"{mode} *" if mode == entry["default_mode"] else mode,
                "not known" if of["peak_flop_s"] is None else f"{of['peak_flop_s'] / 1e12:.3g} TFLOP/s",
                "not known" if of["memory_byte_s"] is None else f"{of['memory_byte_s'] / 1e9:.3g} GB/s",
                f"{entry['memory_bytes'] / 1e9:.0f} GB" if first else "",
                "" if power["idle"] is None else f"{power['idle']:g}, {power['loaded']:g} W",
                f"{entry['unverified']} of {entry['figures']}" if first else "",
            )
    table.caption = "* the mode of nodes that name none"
    table.caption_justify = "left"
    return table
