"""Named links, each with its sources: `presets.yaml` beside this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Preset:
    about: str
    forward: dict[str, Any]
    """properties from the first to the second node, as a file writes them"""
    source: str
    reverse: dict[str, Any] = field(default_factory=dict)
    """what differs from the second node to the first"""
    unverified: tuple[str, ...] = ()
    """figures for which no source was read, as in "reverse.rate" """


@cache
def load() -> dict[str, Preset]:
    """All presets by name, in the order of the file."""
    text = files("edgesim.topology").joinpath("presets.yaml").read_text(encoding="utf-8")
    return {
        name: Preset(**{**entry, "unverified": tuple(entry.get("unverified", ()))})
        for name, entry in yaml.safe_load(text).items()
    }
