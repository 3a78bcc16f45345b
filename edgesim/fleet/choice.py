"""Where a run's nodes are: processes of this machine, or boards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesim.fleet.base import Fleet
from edgesim.fleet.inventory import places_of
from edgesim.topology.problems import Problem, Refusal, TopologyError
from edgesim.topology.quantities import TIME, parse_within
from node_agent.daemon.api import LONGEST_LEASE

if TYPE_CHECKING:
    from edgesim.topology.schema import Topology

SHORTEST_LEASE = 3.0
"""s; three times as long as a board may take to be heard of again"""


@dataclass(frozen=True)
class Boards:
    """What the command line says of boards."""

    inventory: Path | None
    folder: Path | None
    """of the fleet; None: the usual one"""
    insecure: bool
    lease: float | None
    """s; None: the usual one"""
    allow_versions: bool = False

    @property
    def asked(self) -> dict[str, bool]:
        """The options that mean nothing without boards, and whether they were given."""
        return {
            "--fleet": self.folder is not None,
            "--insecure": self.insecure,
            "--lease": self.lease is not None,
            "--allow-versions": self.allow_versions,
        }


def parse_lease(text: str) -> float:
    """Raises QuantityError."""
    return parse_within(text, TIME, SHORTEST_LEASE, LONGEST_LEASE)


def choose(topology: Topology, boards: Boards, tell: Callable[[str], None]) -> Fleet:
    """The fleet of a topology's nodes; boards have been met then.

    Raises TopologyError where an inventory does not fit or options are of boards and there are none, and FleetError
    where boards cannot be used.
    """
    places = places_of(topology, boards.inventory)
    if places is None:
        none = Refusal("no boards", "with --inventory, or with addresses of the nodes")
        problems = [Problem(option, "", none) for option, given in boards.asked.items() if given]
        if problems:
            raise TopologyError(problems)
        from edgesim.fleet.local import LocalFleet

        return LocalFleet()
    from edgesim.fleet.access import Access
    from edgesim.fleet.remote import DEFAULT_LEASE, RemoteFleet

    access = Access.of(boards.folder, boards.insecure)
    lease = DEFAULT_LEASE if boards.lease is None else boards.lease
    fleet = RemoteFleet(access, places, lease, topology.emulation.allow_versions, tell)
    fleet.meet()
    for node, place in zip(topology.ring, places, strict=True):
        called = "" if place.name == node else f"{place.name}, "
        tell(f"{node}: {called}{place.address}")
    return fleet
