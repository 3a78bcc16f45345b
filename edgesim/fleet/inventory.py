"""Which boards a run is made on: those that the topology's nodes name, or those of a file.

The file, as a fleet's folder holds one of what was enrolled:

    boards:
      - {name: orin-1, address: 10.0.0.11}
      - {name: orin-2, address: "orin-2.lab:7443"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesim.fleet.address import Address
from edgesim.topology.problems import Problem, Refusal, TopologyError, closest, dotted, listed, shown
from edgesim.topology.source import Source, read_text

if TYPE_CHECKING:
    from edgesim.topology.schema import Topology

KEYS = ("name", "address")
ENROLLED = ("serial", "ends")
"""keys of a board that only its fleet's folder needs"""


@dataclass(frozen=True)
class Place:
    """A board by its name, and where its agent listens."""

    name: str
    address: Address


def read_inventory(path: Path) -> list[Place]:
    """The boards of a file, in its order. Raises TopologyError with every problem found."""
    source = Source(read_text(path), str(path))
    found = [problem for _, problem in source.problems]

    def refuse(keys: tuple[Any, ...], refusal: Refusal) -> None:
        found.append(Problem(source.place(keys)[1], dotted(keys), refusal))

    for key in source.data:
        if key != "boards":
            refuse((key,), Refusal("an unknown key", "boards", closest(key, ["boards"])))
    boards = source.data.get("boards")
    if not isinstance(boards, list) or not boards:
        refuse(("boards",), Refusal(shown(boards), "a list of boards, each with name and address"))
        boards = []
    places: list[Place] = []
    for i, board in enumerate(boards):
        place = _place(("boards", i), board, places, refuse)
        if place is not None:
            places.append(place)
    if found:
        raise TopologyError(found)
    return places


def _place(keys: tuple[Any, ...], board: Any, before: Sequence[Place], refuse: Any) -> Place | None:
    if not isinstance(board, Mapping):
        refuse(keys, Refusal(shown(board), "a mapping of name and address"))
        return None
    for key in board:
        if key not in (*KEYS, *ENROLLED):
            refuse((*keys, key), Refusal("an unknown key", listed(KEYS), closest(key, KEYS)))
    name, sound = board.get("name"), True
    if not isinstance(name, str) or not name or not name.isprintable():
        refuse((*keys, "name"), Refusal(shown(name), "the board's name"))
        sound = False
    try:
        address = Address.parse(board.get("address"))
    except Refusal as error:
        refuse((*keys, "address"), error)
        return None
    for other in before:
        if other.name == name:
            refuse((*keys, "name"), Refusal(f"{shown(name)} a second time", "every board once"))
            sound = False
        elif other.address == address:
            refuse((*keys, "address"), Refusal(f"{address} a second time", f"one board there ({other.name} is)"))
            sound = False
    return Place(name, address) if sound and isinstance(name, str) else None


def places_of(topology: Topology, inventory: Path | None) -> list[Place] | None:
    """The board of each node, in ring order; None if the nodes are processes of this machine.

    Boards of an inventory are the nodes' by name. Where none of them has the name of a node, they are theirs in the
    order of both. Raises TopologyError as `read_inventory`, and where a node has no board.
    """
    if inventory is None:
        nodes = [topology.node(name) for name in topology.ring]
        return [Place(node.name, Address.parse(node.address)) for node in nodes if node.address is not None] or None
    boards = read_inventory(inventory)
    if topology.emulation.links == "netns":
        refusal = Refusal("links: netns, and an inventory", "userspace: boards impose their links themselves")
        raise TopologyError([Problem(f"--inventory {inventory}", "", refusal)])
    by_name = {board.name: board for board in boards}
    names = [node.name for node in topology.nodes]
    missing = [name for name in names if name not in by_name]
    if len(missing) == len(names) <= len(boards):
        by_name = dict(zip(names, boards, strict=False))
    elif len(missing) == len(names):
        refusal = Refusal(f"{len(boards)} board(s) for {len(names)} node(s)", "a board for every node")
        raise TopologyError([Problem(str(inventory), "boards", refusal)])
    elif missing:
        refusal = Refusal(f"no board for {listed(missing)}", "the names of all nodes, or of none")
        raise TopologyError([Problem(str(inventory), "boards", refusal)])
    return [by_name[name] for name in topology.ring]


def named(places: Sequence[Place], name: str) -> Place:
    """Raises Refusal where there is no such board."""
    for place in places:
        if place.name == name:
            return place
    names = [place.name for place in places]
    raise Refusal(f"{shown(name)}, which is no board", listed(names), closest(name, names))
