"""What no field of a topology file can tell alone: whether names, links and ring fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from edgesim.fleet.address import Address
from edgesim.topology.fields import NAME
from edgesim.topology.paths import ways
from edgesim.topology.problems import Refusal, closest, listed, shown

MOST_LISTED = 10
"""names that a message lists; of more it gives the number"""

Path = tuple[Any, ...]


def neighbours(ring: Sequence[str]) -> list[tuple[str, str]]:
    """Each pair of ring neighbours once: none, one, or as many as there are nodes."""
    pairs = list(zip(ring, (*ring[1:], *ring[:1]), strict=True))
    return pairs if len(pairs) > 2 else pairs[: len(pairs) - 1]


def inconsistencies(data: Mapping[str, Any]) -> Iterator[tuple[Path, Refusal]]:
    """What does not fit together in a file's data, each with its path. Values of a wrong shape are passed over:
    the fields themselves refuse those."""
    nodes = _sequence(data.get("nodes"))
    names = [node.get("name") if isinstance(node, dict) else node for node in nodes]
    known = [name for name in names if isinstance(name, str) and re.fullmatch(NAME, name)]
    repeated = list(_repeated(("nodes",), names))
    yield from repeated
    if repeated or len(known) != len(nodes) or not known:
        return
    yield from _bad_addresses(nodes, _routed(data))
    given = {key: data[key] for key in ("links", "ring", "events") if isinstance(data.get(key), (list, tuple))}
    links = [_ends(link) for link in given.get("links", ())]
    ring = given.get("ring", known)
    problems = [*_bad_ends(links, known), *_bad_ring(ring, known)]
    yield from problems
    if not problems and all(name in known for name in ring):
        pairs = links if "links" in given else neighbours(ring)
        yield from _bad_events(given.get("events", ()), known, pairs)
    # Whether the ring closes is only asked of names and links that are sound themselves.
    if "links" in given and all(links) and all(name in known for name in ring) and not problems:
        yield from _gaps(links, ring, ("ring",) if "ring" in given else ("links",), _routed(data))


def _bad_addresses(nodes: Sequence[Any], routed: bool) -> Iterator[tuple[Path, Refusal]]:
    addresses: dict[int, str] = {}
    for i, node in enumerate(nodes):
        if isinstance(node, dict) and node.get("address") is not None:
            with suppress(Refusal):  # the field itself refuses it
                addresses[i] = str(Address.parse(node["address"]))
    with_one = [i for i, node in enumerate(nodes) if isinstance(node, dict) and node.get("address") is not None]
    for i in range(len(nodes)) if with_one else ():
        if i not in with_one:
            found = f"a node without address beside {len(with_one)} with one"
            yield ("nodes", i), Refusal(found, "an address for every node, or for none")
    for i, address in addresses.items():
        first = next(j for j, other in addresses.items() if other == address)
        if first < i:
            found = f"{address} a second time (the first is nodes.{first})"
            yield ("nodes", i, "address"), Refusal(found, "a board of its own for every node")
    if with_one and routed:
        refusal = Refusal("netns, and nodes that have an address", "userspace: boards impose their links themselves")
        yield ("emulation", "links"), refusal


def _bad_events(
    events: Sequence[Any], known: Sequence[str], links: Sequence[tuple[str, ...]]
) -> Iterator[tuple[Path, Refusal]]:
    joined = {frozenset(between) for between in links}
    for i, event in enumerate(events):
        if not isinstance(event, dict):
            continue
        ends = _sequence(event.get("link"))
        named = [*((("link", place), end) for place, end in enumerate(ends)), (("node",), event.get("node"))]
        unknown = [(path, name) for path, name in named if isinstance(name, str) and name not in known]
        for path, name in unknown:
            yield ("events", i, *path), _no_node(name, known)
        sound = len(ends) == 2 and not unknown and all(isinstance(end, str) for end in ends)
        if sound and frozenset(ends) not in joined:
            found = f"no link between {ends[0]} and {ends[1]}"
            yield ("events", i, "link"), Refusal(found, "the two nodes of a link of the file")


def _gaps(
    links: Sequence[tuple[str, ...]], ring: Sequence[str], path: Path, routed: bool
) -> Iterator[tuple[Path, Refusal]]:
    joined = {frozenset(between) for between in links}
    for source, target in neighbours(ring):
        if frozenset((source, target)) in joined:
            continue
        way = ways(ring, [(one, other) for one, other in links], source).get(target)
        if routed and way is not None:
            continue
        found = f"no link between {source} and {target}, neighbours in the ring"
        allowed = "a ring over the links that are given"
        if routed:
            found += ", and no way over other nodes"
        elif way is not None:
            allowed += f"; or links: netns, where it goes over {' and '.join(way[1:-1])}"
        place = (*path, ring.index(source)) if path == ("ring",) else path
        yield place, Refusal(found, allowed)


def _routed(data: Mapping[str, Any]) -> bool:
    """Whether nodes reach each other over others, which take packets on: where the kernel imposes the links."""
    emulation = data.get("emulation")
    return isinstance(emulation, dict) and emulation.get("links") == "netns"


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _ends(link: Any) -> tuple[str, ...]:
    """The two names that a link joins; nothing if that is not what it says."""
    between = _sequence(link.get("between")) if isinstance(link, dict) else []
    return tuple(between) if len(between) == 2 and all(isinstance(end, str) for end in between) else ()


def _repeated(path: Path, names: Sequence[Any]) -> Iterator[tuple[Path, Refusal]]:
    for i, name in enumerate(names):
        if isinstance(name, str) and name in names[:i]:
            yield (*path, i), Refusal(f"{shown(name)} a second time", "every node once")


def _bad_ends(links: Sequence[tuple[str, ...]], known: Sequence[str]) -> Iterator[tuple[Path, Refusal]]:
    seen: dict[frozenset[str], int] = {}
    for i, between in enumerate(links):
        if not between:
            continue
        path = ("links", i, "between")
        yield from _unknown(path, between, known)
        pair = frozenset(between)
        if len(pair) == 1:
            yield path, Refusal(f"a link from {between[0]} to itself", "two different nodes")
        elif pair in seen:
            refusal = Refusal(
                f"a second link between {between[0]} and {between[1]}",
                f"one, whose directions may differ by reverse (the first is links.{seen[pair]})",
            )
            yield path, refusal
        seen.setdefault(pair, i)


def _unknown(path: Path, names: Sequence[Any], known: Sequence[str]) -> Iterator[tuple[Path, Refusal]]:
    for i, name in enumerate(names):
        if isinstance(name, str) and name not in known:
            yield (*path, i), _no_node(name, known)


def _no_node(name: str, known: Sequence[str]) -> Refusal:
    allowed = listed(known) if len(known) <= MOST_LISTED else f"one of the {len(known)} nodes"
    return Refusal(f"{shown(name)}, which is no node", allowed, closest(name, known))


def _bad_ring(ring: Sequence[Any], known: Sequence[str]) -> Iterator[tuple[Path, Refusal]]:
    yield from _unknown(("ring",), ring, known)
    yield from _repeated(("ring",), ring)
    missing = [name for name in known if name not in ring]
    if missing and len(ring) < len(known):
        yield ("ring",), Refusal(f"a ring without {' and '.join(missing)}", "every node once")
