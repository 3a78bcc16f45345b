"""Values and events in the terms of strict JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import BaseModel

from node_agent.events import Event, Observation


def described(event: Event) -> dict[str, Any]:
    """An event with its kind; of arrays only the shapes."""
    if isinstance(event, Observation):
        shapes = {name: list(array.shape) for name, array in event.arrays.items()}
        return {
            "event": "observation",
            "rank": event.rank,
            "node": event.node,
            "step": event.step,
            "time_s": event.time_s,
            "shapes": shapes,
        }
    return {"event": type(event).__name__.lower(), **asdict(event)}


def plain(value: Any) -> Any:
    """The value in the terms of strict JSON: None for what is not finite, lists for arrays and tuples."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
