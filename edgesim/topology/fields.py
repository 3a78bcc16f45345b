"""Kinds of value in the fields of a topology file: quantities with their units and bounds, names, compressors."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from edgesim import devices
from edgesim.fleet import address
from edgesim.topology.problems import Refusal, closest, listed, shown
from edgesim.topology.quantities import ANGLE, FRACTION, LENGTH, RATE, SIZE, TIME, Kind, parse_within
from node_agent.compression.settings import CATALOGUE, AnyCompressorSettings, AutomaticDensity, CompressorSettings

LATEST = 10 * 365.25 * 86400
"""s; the end of time, by a run's clock"""

NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True)
class Quantity:
    """Marks a field as written with a unit, and bounds it (SI, inclusive)."""

    kind: Kind
    minimum: float
    maximum: float

    def parse(self, value: Any) -> float | None:
        if self.kind.word is not None and value == self.kind.word:
            return None
        return parse_within(value, self.kind, self.minimum, self.maximum)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number = ("-?" if self.minimum < 0 else "") + r"\d+(\.\d*)?([eE][+-]?\d{1,2})?"
        pattern = rf"{number} ?({'|'.join(self.kind.units)})"
        if self.kind.word is not None:
            pattern = f"{pattern}|{self.kind.word}"
        written = {"type": "string", "pattern": f"^({pattern})$", "examples": [self.kind.example]}
        least, most = (self.minimum, self.maximum) if self.kind.bare else (0, 0)
        bare = {"type": "number", "minimum": least, "maximum": most}
        return {"anyOf": [written, bare]} if self.minimum <= 0 else written


Rate = Annotated[float | None, Quantity(RATE, 1, 1e12)]
Delay = Annotated[float, Quantity(TIME, 0, 3600)]
Jitter = Annotated[float, Quantity(TIME, 0, 60)]
MOST_LOSS = 0.5
Loss = Annotated[float, Quantity(FRACTION, 0, MOST_LOSS)]
Instant = Annotated[float, Quantity(TIME, 0, LATEST)]
Duration = Annotated[float, Quantity(TIME, 0.001, LATEST)]
Timeout = Annotated[float, Quantity(TIME, 0.1, 86400)]
Horizon = Annotated[float, Quantity(TIME, 1, 31 * 86400)]
Step = Annotated[float, Quantity(TIME, 0.1, 60)]
Tolerance = Annotated[float, Quantity(TIME, 1e-6, 0.1)]
Height = Annotated[float, Quantity(LENGTH, 160e3, 50_000e3)]
Clearance = Annotated[float, Quantity(LENGTH, 0, 1000e3)]
GroundHeight = Annotated[float, Quantity(LENGTH, -500, 9000)]
Inclination = Annotated[float, Quantity(ANGLE, 0, math.pi)]
Latitude = Annotated[float, Quantity(ANGLE, -math.pi / 2, math.pi / 2)]
Longitude = Annotated[float, Quantity(ANGLE, -math.pi, 2 * math.pi)]
Mask = Annotated[float, Quantity(ANGLE, 0, math.radians(89))]
Turn = Annotated[float, Quantity(ANGLE, 0, 2 * math.pi)]
Spacing = Annotated[float, Quantity(ANGLE, math.radians(0.01), math.pi)]
Deadline = Annotated[float, Quantity(TIME, 0, LATEST)]
Fraction = Annotated[float, Quantity(FRACTION, 0, 1)]
Queue = Annotated[int, Quantity(SIZE, 1500, 2**32)]
Framing = Annotated[int, Quantity(SIZE, 0, 1500)]
Size = Annotated[int, Quantity(SIZE, 1, 2**32)]


def _name(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(NAME, value):
        return value
    # 7 is a number to YAML, "7" a name.
    hint = str(value) if type(value) is int and value >= 0 else None
    allowed = "a name: letters, digits, '.', '_' and '-', at most 64, beginning with a letter, a digit or '_'"
    raise Refusal(shown(value), allowed, hint)


@dataclass(frozen=True)
class NameSchema:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{NAME}$"}


Name = Annotated[str, BeforeValidator(_name), NameSchema()]


MOMENT = "2026-03-20T00:00:00Z"
YEARS = (1960, 2050)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    allowed = f"a date and time in UTC such as '{MOMENT}'"
    # A date alone would leave open whose midnight is meant.
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?Z", value):
        ready = isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?", value)
        raise Refusal(
            shown(value), allowed, f"{value}{'Z' if len(str(value)) > 10 else 'T00:00:00Z'}" if ready else None
        )
    text, _, fraction = value.removesuffix("Z").replace(" ", "T").partition(".")
    try:
        moment = datetime.fromisoformat(f"{text}.{fraction:0<6}" if fraction else text).replace(tzinfo=timezone.utc)
    except ValueError:
        raise Refusal(shown(value), allowed) from None
    if not YEARS[0] <= moment.year < YEARS[1]:
        raise Refusal(shown(value), f"a year from {YEARS[0]} to {YEARS[1] - 1}")
    return moment


@dataclass(frozen=True)
class _MomentSchema:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?Z$",
            "examples": [MOMENT],
        }


Moment = Annotated[datetime, BeforeValidator(_moment), _MomentSchema()]


def _device(value: Any) -> str:
    if isinstance(value, str):
        try:
            if value != devices.HOST:
                devices.load(value)
            return value
        except devices.DeviceError as error:
            raise Refusal(str(error), "a sound device profile") from error
    raise Refusal(shown(value), f"{devices.HOST}, the name of a device, or a device profile (.yaml)")


@dataclass(frozen=True)
class _DeviceSchema:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": [devices.HOST, *devices.known()]}, {"type": "string", "pattern": r"\.ya?ml$"}]}


Device = Annotated[str, BeforeValidator(_device), _DeviceSchema()]


def _address(value: Any) -> str:
    return str(address.Address.parse(value))


@dataclass(frozen=True)
class _AddressSchema:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "examples": ["10.0.0.11", f"orin-1.lab:{address.PORT}"]}


Address = Annotated[str, BeforeValidator(_address), _AddressSchema()]


def _compressor(value: Any) -> CompressorSettings:
    if isinstance(value, CompressorSettings):
        return value
    settings = value if isinstance(value, dict) else {"name": value}
    name = settings.get("name")
    if not isinstance(name, str) or name not in CATALOGUE:
        raise no_compressor(value)
    # Strictly, and as JSON, in which a list is a tuple: a density of `true` or "0.5" is a mistake.
    return CATALOGUE[name].model_validate_json(json.dumps(settings), strict=True)


def no_compressor(value: Any) -> Refusal:
    """Of what is no compressor's name, nor a mapping with one."""
    settings = value if isinstance(value, dict) else {"name": value}
    name = settings.get("name")
    found = shown(name) if "name" in settings else "a mapping without a name"
    return Refusal(found, f"{listed(CATALOGUE)}, or a mapping with one of these as its name", closest(name, CATALOGUE))


def _automatic(value: Any) -> Any:
    if value == "auto":
        return AutomaticDensity()
    if value is None or isinstance(value, AutomaticDensity):
        return value
    if not isinstance(value, dict):
        raise Refusal(shown(value), "auto, or a mapping of lowest and highest")
    return AutomaticDensity.model_validate_json(json.dumps(value), strict=True)


@dataclass(frozen=True)
class _AutomaticSchema:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": "auto"}, handler(schema)]}


Density = Annotated[AutomaticDensity | None, BeforeValidator(_automatic), _AutomaticSchema()]


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


@dataclass(frozen=True)
class _CompressorsSchema:
    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        several = handler(schema)
        one = {"anyOf": [{"enum": list(CATALOGUE)}, several["items"]]}
        return {"anyOf": [*one["anyOf"], {**several, "items": one}]}


Compressors = Annotated[
    tuple[Annotated[AnyCompressorSettings, BeforeValidator(_compressor)], ...],
    BeforeValidator(_listed),
    _CompressorsSchema(),
]
