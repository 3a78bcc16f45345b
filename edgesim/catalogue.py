"""What compressors and named links there are, for people and for scripts. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgesim.topology.presets import load
from edgesim.topology.problems import Refusal, closest, listed, shown
from node_agent.compression.settings import CATALOGUE

_HOW = {"aligned": "ring all-reduce", "private": "ring all-gather"}


def entries(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One entry per compressor, of these or of all: name, reduction, summary, source, and settings with type, default
    and meaning. Raises Refusal for a name that is not known."""
    for name in names:
        if name not in CATALOGUE:
            raise Refusal(shown(name), listed(CATALOGUE), closest(name, CATALOGUE))
    found = []
    for name in names or CATALOGUE:
        settings = CATALOGUE[name]
        schema = settings.model_json_schema()
        # What may hold its like is defined beside itself.
        properties = schema.get("properties") or schema["$defs"][settings.__name__]["properties"]
        found.append(
            {
                "name": name,
                "reduction": settings.usual,
                "summary": settings.summary,
                "source": settings.source,
                "settings": {key: _setting(value) for key, value in properties.items() if key != "name"},
            }
        )
    return found


def _setting(value: dict[str, Any]) -> dict[str, Any]:
    """As the schema has it, but for a compressor within a compressor, of which all that it may be stands elsewhere."""
    if isinstance(value.get("default"), dict):
        return {"type": "compressor", "default": value["default"]["name"], "description": value["description"]}
    return value


def render() -> RenderableType:
    """All compressors, a line each."""
    table = Table.grid(padding=(0, 2))
    for entry in entries():
        table.add_row(Text(entry["name"], "bold"), entry["reduction"], entry["summary"])
    explained = "aligned: payloads are summed by a ring all-reduce; private: each node's own travels a ring all-gather"
    return Group(table, Text(f"\n{explained}\nedgesim compressors NAME... tells settings and sources", style="dim"))


def render_entries(names: Sequence[str]) -> RenderableType:
    """These compressors with their settings and sources. Raises Refusal for a name that is not known."""
    parts: list[RenderableType] = []
    for entry in entries(names):
        head = Text.assemble((entry["name"], "bold"), f"  {entry['summary']}")
        origin = Text(f"{entry['reduction']} ({_HOW[entry['reduction']]}); {entry['source']}", style="dim")
        parts += [head, Padding(origin, (0, 0, 0, 2))]
        table = Table.grid(padding=(0, 2))
        for key, value in entry["settings"].items():
            if "const" not in value:
                table.add_row(f"    {key}", str(value.get("default")), _range(value), value.get("description", ""))
        parts += [table, Text("")]
    return Group(*parts)


def presets() -> list[dict[str, Any]]:
    """One entry per named link: properties of both directions, what it is, its source, and figures without one."""
    return [
        {
            "name": name,
            "about": preset.about,
            "forward": preset.forward,
            "reverse": {**preset.forward, **preset.reverse},
            "source": preset.source,
            "unverified": list(preset.unverified),
        }
        for name, preset in load().items()
    ]


def render_presets() -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row(*(Text(heading, style="bold") for heading in ("preset", "rate", "back", "delay", "what, and source")))
    for entry in presets():
        forward, reverse = entry["forward"], entry["reverse"]
        cells = (
            _figure(forward["rate"], "forward.rate" in entry["unverified"]),
            _figure(reverse["rate"], {"forward.rate", "reverse.rate"} & {*entry["unverified"]}),
            _figure(forward["delay"], "forward.delay" in entry["unverified"]),
        )
        table.add_row(entry["name"], *cells, Text.assemble(f"{entry['about']}\n", (entry["source"], "dim")))
    return Group(table, Text("\n* a usual value, for which no source was read"))


def _figure(value: str, unverified: object) -> str:
    return f"{value} *" if unverified else value


def _range(value: dict[str, Any]) -> str:
    if "enum" in value:
        return " | ".join(map(str, value["enum"]))
    if "anyOf" in value:
        return " or ".join(map(_range, value["anyOf"]))
    low = next((f"{sign} {value[key]}" for key, sign in _LOW.items() if key in value), "")
    high = next((f"{sign} {value[key]}" for key, sign in _HIGH.items() if key in value), "")
    return ", ".join(filter(None, (low, high))) or str(value.get("type", ""))


_LOW = {"minimum": ">=", "exclusiveMinimum": ">"}
_HIGH = {"maximum": "<=", "exclusiveMaximum": "<"}
