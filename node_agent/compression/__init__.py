"""Gradient compressors: one file a method, beside its equation. Importing this package does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from node_agent.compression.settings import CATALOGUE, AutomaticDensity, CompressorSettings, SettingError

if TYPE_CHECKING:
    from node_agent.compression.base import Layer
    from node_agent.compression.compressor import Compressor

__all__ = ["CompressorSettings", "configure", "create"]


def configure(name: str, /, **values: Any) -> CompressorSettings:
    """The settings of the compressor called `name`. Raises ValueError where the name or a setting is not known, or a
    value is not allowed."""
    if name not in CATALOGUE:
        raise ValueError(f"compressor: found {name!r}{_allowed(name, CATALOGUE)}")
    settings = CATALOGUE[name]
    for key in values:
        if key not in settings.model_fields:
            raise ValueError(f"compressor {name}: found a setting {key!r}{_allowed(key, settings.model_fields)}")
    try:
        return settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first.get("ctx", {}).get("error")
        allowed = f"allowed {reason}" if isinstance(reason, SettingError) else first["msg"]
        raise ValueError(f"compressor {name}: {where}: found {first['input']!r}; {allowed}") from None


def create(
    settings: CompressorSettings | str,
    layers: Sequence[Layer] | None = None,
    /,
    *,
    seed: int = 0,
    automatic: AutomaticDensity | None = None,
    **overrides: Any,
) -> Compressor:
    """A compressor of these settings (or of this name), with all that they ask for: error feedback, warm-up, …

    `layers` are all the tensors of the model; None: those of the first gradients that it is given. With `automatic`, a
    density follows the link. Raises ValueError as `configure` does.
    """
    if isinstance(settings, str):
        settings = configure(settings, **overrides)
    elif overrides:
        values = settings.model_dump()
        settings = configure(values.pop("name"), **values | overrides)

    from node_agent.compression.compressor import Compressor

    return Compressor(settings, layers, seed, automatic)


def _allowed(found: str, names: Any) -> str:
    close = get_close_matches(found, names, n=1)
    meant = f", did you mean {close[0]!r}?" if close else ","
    return f"{meant} allowed: {', '.join(names)}"
