"""Events as lines of JSON, whole: what one process writes, another one reads back as it was.

Arrays are written as their bytes, little-endian, in base64; numbers that are not finite by their names, which the facts
of a workload keep. What is read comes from another machine: it is checked against the event's own description before it
is one.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError

from node_agent import events
from node_agent.events import Event, Observation

DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")
"""of arrays"""

MOST_AXES, MOST_ENTRIES = 4, 2**31

_KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(events.Event)}
_ADAPTERS = {name: TypeAdapter(kind) for name, kind in _KINDS.items() if kind is not Observation}


class WireError(ValueError):
    """What is not an event; one line."""


def encode(event: Event) -> bytes:
    """One line, its newline included. Raises TypeError for an array of a kind that does not travel."""
    content = {"event": type(event).__name__.lower(), **_shallow(event)}
    return json.dumps(content, allow_nan=False, separators=(",", ":"), default=_plain).encode() + b"\n"


def decode(line: bytes | str) -> Event:
    """The event of a line. Raises WireError where it is none."""
    try:
        content = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise WireError(f"found {type(content).__name__}, allowed an object")
    name = content.pop("event", None)
    if not isinstance(name, str) or name not in _KINDS:
        raise WireError(f"event: found {_short(name)}, allowed {', '.join(_KINDS)}")
    kind = _KINDS[name]
    unknown = content.keys() - {one.name for one in fields(kind)}
    if unknown:
        raise WireError(f"{name}: found unknown field {_short(min(unknown))}")
    if kind is Observation:
        return _observation(content)
    try:
        found: Event = _ADAPTERS[name].validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise WireError(f"{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return found


def _shallow(value: Any) -> dict[str, Any]:
    return {one.name: _finite(getattr(value, one.name)) for one in fields(value)}


def _finite(value: Any) -> Any:
    """The value in JSON's terms, as far as the encoder does not ask for it anyway."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _finite(value.model_dump())
    if isinstance(value, np.ndarray):
        return _described(value)
    if isinstance(value, np.generic):
        return _finite(value.item())
    if hasattr(value, "__dataclass_fields__"):
        return _shallow(value)
    raise TypeError(f"{type(value).__name__} does not travel")


def _described(array: NDArray[Any]) -> dict[str, Any]:
    if array.dtype.name not in DTYPES:
        raise TypeError(f"an array of {array.dtype} does not travel")
    octets = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": base64.b64encode(octets).decode()}


def _observation(content: dict[str, Any]) -> Observation:
    arrays = content.pop("arrays", {})
    if not isinstance(arrays, dict):
        raise WireError(f"observation.arrays: found {_short(arrays)}, allowed an object")
    try:
        bare = _Bare.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise WireError(f"observation.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    found = {name: _array(name, described) for name, described in arrays.items()}
    return Observation(bare.rank, bare.node, bare.step, bare.time_s, found)


class _Bare(BaseModel):
    """An observation without its arrays."""

    rank: int
    node: str
    step: int
    time_s: float


def _array(name: str, described: Any) -> NDArray[Any]:
    place = f"observation.arrays.{_short(name)}"
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "base64"}:
        raise WireError(f"{place}: found {_short(described)}, allowed dtype, shape and base64")
    dtype, shape, text = described["dtype"], described["shape"], described["base64"]
    if dtype not in DTYPES:
        raise WireError(f"{place}: found dtype {_short(dtype)}, allowed {', '.join(DTYPES)}")
    sound = isinstance(shape, list) and len(shape) <= MOST_AXES
    sound = sound and all(type(axis) is int and axis >= 0 for axis in shape)
    if not sound or math.prod(axis or 1 for axis in shape) > MOST_ENTRIES:
        raise WireError(
            f"{place}: found shape {_short(shape)}, allowed up to {MOST_AXES} lengths, of {MOST_ENTRIES} entries"
        )
    try:
        octets = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise WireError(f"{place}: found no base64") from error
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if len(octets) != wanted:
        raise WireError(f"{place}: found {len(octets)} bytes, allowed {wanted}, those of {dtype} in {shape}")
    stored = np.frombuffer(octets, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return stored.astype(np.dtype(dtype))


def _no_number(name: str) -> None:
    raise ValueError(f"found {name}, which is no JSON")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
