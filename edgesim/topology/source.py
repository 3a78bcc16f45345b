"""YAML as plain data that remembers where each value stands, and `--set path=value` on top of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Union

import yaml

from edgesim.topology.problems import Problem, Refusal, TopologyError, dotted, shown

LARGEST_FILE = 10**6
MOST_VALUES = 100_000
"""after aliases are followed, so that a few lines of them cannot fill the memory"""

Key = Union[str, int]  # noqa: UP007
Keys = tuple[Key, ...]

_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `no` and `on` are text, 1e-3 is a number, 12:30 and 2026-01-01 are text."""


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)


class Source:
    """One topology file, before anybody asks what it means.

    `data` is dicts, lists and plain values; `problems` what the YAML itself has wrong and yet can be read around.
    Raises TopologyError where the text is no YAML mapping at all.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.data: dict[str, Any] = {}
        self.problems: list[tuple[int, Problem]] = []
        self._places: dict[Keys, tuple[int, str]] = {(): (1, f"{name}:1")}
        self._values = 0
        self._overrides = 0
        self._load(text)

    def place(self, keys: Keys) -> tuple[int, str]:
        """Where the value, or else the nearest thing around it, was set: a number to sort by, and words."""
        while keys not in self._places:
            keys = keys[:-1]
        return self._places[keys]

    def set(self, option: str, typed: str | None = None) -> None:
        """Apply one `path=value`: the path as in `links.0.rate`, the value as YAML. Raises TopologyError.

        `typed` is what the user wrote, where that was not `--set option`.
        """
        typed = f"--set {option}" if typed is None else typed
        place = typed if typed.isprintable() else shown(typed)
        path, equals, text = option.partition("=")
        path = path.strip()
        keys = tuple(int(key) if key.isdecimal() else key for key in path.split("."))
        if not equals or "" in keys:
            raise _refused(place, "", shown(option), "path=value, such as training.steps=100")
        try:
            value = yaml.load(text, _Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise _refused(place, path, shown(text), "a YAML value") from None
        self._overrides += 1
        order = LARGEST_FILE + self._overrides
        parent = self._section(keys, order, place)
        self._places = {known: at for known, at in self._places.items() if known[: len(keys)] != keys}
        self._places[keys] = (order, place)
        parent[keys[-1]] = value

    def _section(self, keys: Keys, order: int, place: str) -> Any:
        """The dict or list that holds the last key, made where it is missing."""
        section: Any = self.data
        for depth, key in enumerate(keys):
            at = dotted(keys[: depth + 1])
            if isinstance(section, list):
                if not isinstance(key, int) or key >= len(section):
                    found = shown(key) if isinstance(key, str) else f"index {key}"
                    last = len(section) - 1
                    raise _refused(place, at, found, f"an index from 0 to {last}" if section else "an empty list")
            elif not isinstance(key, str):
                raise _refused(place, at, f"index {key}", "a key: there is no list here")
            if depth == len(keys) - 1:
                break
            inner = section[int(key)] if isinstance(section, list) else section.get(key)
            if not isinstance(inner, (dict, list)):
                # "sat-0" and {name: sat-0}, "gcc" and {name: gcc} are the same.
                inner = {"name": inner} if isinstance(inner, str) else {}
                section[key] = inner
                self._places.setdefault(keys[: depth + 1], (order, place))
            section = inner
        return section

    def _load(self, text: str) -> None:
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            if root is None:
                raise _refused(self.name, "", "an empty file", "a mapping with at least: nodes")
            data = self._build(loader, root, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._not_yaml(mark.line + 1 if mark else 1, error.problem or str(error.context)) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._not_yaml(line, f"the character {chr(int(error.character))!r}") from None
        except RecursionError:
            raise self._not_yaml(1, "sections nested too deeply") from None
        if not isinstance(data, dict):
            raise _refused(f"{self.name}:1", "", shown(data), "a mapping with at least: nodes")
        self.data = data

    def _not_yaml(self, line: int, why: str) -> TopologyError:
        return _refused(f"{self.name}:{line}", "", f"no valid YAML ({why})", "YAML")

    def _build(self, loader: _Loader, node: yaml.Node, keys: Keys, above: tuple[yaml.Node, ...]) -> Any:
        """The node's plain data; `above` are the nodes that it stands in."""
        line = node.start_mark.line + 1
        self._places.setdefault(keys, (line, f"{self.name}:{line}"))
        self._values += 1
        field = dotted(keys)
        if self._values > MOST_VALUES:
            raise _refused(f"{self.name}:{line}", field, "too many values", f"{MOST_VALUES}, aliases followed")
        if node in above:
            raise _refused(f"{self.name}:{line}", field, "an alias of itself", "aliases of other values")
        if node.tag not in _PLAIN:
            raise _refused(f"{self.name}:{line}", field, f"the tag {node.tag!r}", "plain YAML without tags")
        inside = (*above, node)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(loader, item, (*keys, i), inside) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, keys, inside)
        try:
            return loader.construct_object(node)
        except ValueError:  # more digits than Python reads
            return str(node.value)

    def _mapping(
        self, loader: _Loader, node: yaml.MappingNode, keys: Keys, inside: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            place = f"{self.name}:{line}"
            if key_node.tag == _MERGE:
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):
                    more = self._build(loader, source, keys, inside)
                    if not isinstance(more, dict):
                        raise _refused(place, dotted(keys), "<< of no mapping", "<<: *mapping")
                    merged.update(more)
                continue
            key = key_node.value
            if not isinstance(key, str):
                raise _refused(place, dotted(keys), "a key that is no text", "text as a key")
            inner = (*keys, key)
            if key in own:
                first = self._places[inner][0]
                refusal = Refusal(f"the key twice (first on line {first})", "each key once")
                self.problems.append((line, Problem(place, dotted(inner), refusal)))
            self._places[inner] = (line, place)
            own[key] = self._build(loader, value_node, inner, inside)
        return {**merged, **own}


def _refused(place: str, field: str, found: str, allowed: str) -> TopologyError:
    return TopologyError([Problem(place, field, Refusal(found, allowed))])


def read_text(path: Path) -> str:
    """The file's text. Raises TopologyError where there is none: no such file, a folder, too large, not text."""
    allowed = "a topology file (YAML)"
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (FileNotFoundError, ValueError):  # ValueError: a path with a null character
        raise _refused(str(path), "", "no such file", allowed) from None
    except IsADirectoryError:
        raise _refused(str(path), "", "a folder", allowed) from None
    except OSError as error:
        raise _refused(str(path), "", f"a file that cannot be read ({error.strerror})", allowed) from None
    if len(content) > LARGEST_FILE:
        raise _refused(str(path), "", "a larger file", f"at most {LARGEST_FILE // 10**6} MB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(f"{path}:{line}", "", f"byte 0x{content[error.start]:02x}, which is no UTF-8", "text") from None
