"""YAML -> Topology. Whatever is wrong is said at once: file:line: field: found …, allowed …; did you mean …?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from edgesim.topology.constellation import Constellation
from edgesim.topology.fields import MOMENT, Quantity
from edgesim.topology.problems import Problem, Refusal, TopologyError, closest, dotted, listed, shown
from edgesim.topology.schema import Topology
from edgesim.topology.source import Keys, Source, read_text
from node_agent.compression.settings import CATALOGUE, CompressorSettings, SettingError

__all__ = ["TopologyError", "place_of", "read", "read_constellation"]


def read(
    path: str | PathLike[str], overrides: Sequence[str] = (), typed: Mapping[str, str] = MappingProxyType({})
) -> Topology:
    """The topology of a file, after `--set` options ("training.steps=100", "links.0.rate=1 Mbit/s").

    `typed` tells what the user wrote instead, of overrides that other options stand for. Raises TopologyError with
    every problem found.
    """
    file = Path(path)
    return _topology(file, _source(file, overrides, typed), {})


def read_constellation(
    path: str | PathLike[str], overrides: Sequence[str] = ()
) -> tuple[str, Constellation, list[tuple[str, str]] | None]:
    """The name and the constellation of a file, and which of its bodies the file links; None if it names no nodes and
    no links, and is of the constellation alone, however many satellites that has. Raises as `read`, and where there is
    no constellation."""
    file = Path(path)
    source = _source(file, overrides, {})
    alone = not any(source.data.get(key) for key in ("nodes", "ring", "links", "events"))
    # One node, without a link, so that all other sections are checked.
    topology = _topology(file, source, {"nodes": ["alone"]} if alone else {})
    constellation = topology.constellation
    if constellation is None:
        refusal = Refusal("nothing", f"a mapping of {', '.join(Constellation.model_fields)}")
        raise TopologyError([Problem(source.place(())[1], "constellation", refusal)])
    if alone:
        return topology.name, constellation, None
    return topology.name, constellation, topology.orbital_links()


def _topology(file: Path, source: Source, more: Mapping[str, Any]) -> Topology:
    data = {"name": _name_of(file), **source.data, **more}
    found = list(source.problems)
    try:
        topology = Topology.model_validate(data, context={"folder": file.parent})
    except ValidationError as error:
        found += [_problem(detail, source) for detail in _own(error.errors())]
    if found:
        raise TopologyError([problem for _, problem in sorted(found, key=lambda entry: entry[0])])
    return topology


def place_of(
    path: str | PathLike[str],
    overrides: Sequence[str],
    *keys: str | int,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Where a value of a topology that could be read was set: file:line, or the option that set it."""
    return _source(Path(path), overrides, typed).place(keys)[1]


def _source(file: Path, overrides: Sequence[str], typed: Mapping[str, str]) -> Source:
    source = Source(read_text(file), str(file))
    for override in overrides:
        source.set(override, typed.get(override))
    return source


def _name_of(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip(".-")[:64] or "topology"


def _own(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without complaints that a list is too short for want of the items that are themselves refused."""
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(other["loc"][:-1][: len(detail["loc"])] == detail["loc"] for other in details)
    ]


def _problem(detail: ErrorDetails, source: Source) -> tuple[int, Problem]:
    keys, section = _in_file(detail["loc"], source.data)
    order, place = source.place(keys)
    return order, Problem(place, dotted(keys), _refusal(detail, section))


def _in_file(location: Keys, data: Any) -> tuple[Keys, Any]:
    """The location without what only the schema knows, such as the index of a list written as a single value,
    and the file's mapping or list around it."""
    keys: Keys = ()
    section = data
    for i, part in enumerate(location):
        known = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        missing = isinstance(data, dict) and isinstance(part, str) and i == len(location) - 1
        if known or missing:
            section, data = data, data[part] if known else None
            keys = (*keys, part)
    return keys, section


def _refusal(detail: ErrorDetails, section: Any) -> Refusal:
    """In our own words, from the schema: pydantic's speak to programmers."""
    error = detail.get("ctx", {}).get("error")
    if isinstance(error, Refusal):
        return error
    *above, last = detail["loc"]
    value = detail["input"]
    if isinstance(error, SettingError):
        return Refusal(shown(value), str(error))
    if isinstance(last, int):
        (listing,) = _alternatives(_fields(above[:-1], section)[str(above[-1])].annotation)
        element = get_args(listing)[0]
        annotation, metadata, description = element, [*get_args(element)[1:]], ""
    else:
        fields = _fields(above, section)
        if detail["type"] == "extra_forbidden":
            return Refusal("an unknown key", listed(fields), closest(last, fields))
        field = fields[last]
        annotation, metadata, description = field.annotation, field.metadata, f" ({field.description})"
    expected = _expected(annotation, metadata)
    if detail["type"] == "missing":
        return Refusal("nothing", f"{expected}{description}")
    return Refusal(shown(value), expected, closest(value, [str(choice) for choice in _choices(annotation)]))


def _fields(location: Sequence[str | int], section: Any) -> dict[str, FieldInfo]:
    """The fields of the model at a location, by their names in the file; `section` is the file's data there."""
    models: list[type[BaseModel]] = [Topology]
    for part in location:
        if isinstance(part, str):
            (model,) = models
            models = [*_models(_by_key(model)[part].annotation)]
    if issubclass(models[0], CompressorSettings):
        return _by_key(CATALOGUE[section["name"]])
    return _by_key(models[0])


def _by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types that an annotation admits, None apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    elif annotation is not NoneType:
        yield annotation


def _choices(annotation: Any) -> list[Any]:
    return [
        choice
        for alternative in _alternatives(annotation)
        if get_origin(alternative) is Literal
        for choice in get_args(alternative)
    ]


def _expected(annotation: Any, metadata: Iterable[Any]) -> str:
    """'a number above 0 and at most 1' and the like."""
    choices = _choices(annotation)
    if choices:
        return listed(choice if isinstance(choice, str) else shown(choice) for choice in choices)
    (kind,) = _alternatives(annotation)
    for part in metadata:
        if isinstance(part, Quantity):
            return part.kind.allowed
    if kind is str:
        return "text"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a mapping of {', '.join(_by_key(kind))}"
    limits = {}
    for constraint in metadata:
        for part in constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]:
            limits.update({name: getattr(part, name) for name in LIMITS if hasattr(part, name)})
    noun = NOUNS[get_origin(kind) or kind]
    bounds = " and ".join(f"{LIMITS[name]} {limit}" for name, limit in limits.items())
    return f"{noun} {bounds}" if bounds else noun


LIMITS = {
    "gt": "above",
    "ge": "of at least",
    "lt": "below",
    "le": "at most",
    "min_length": "of at least",
    "max_length": "at most",
}
NOUNS = {
    datetime: f"a date and time in UTC such as '{MOMENT}'",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
}
