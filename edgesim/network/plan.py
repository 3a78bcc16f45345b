"""A topology as a network of namespaces: the devices that join nodes, their addresses, the routes over them. Pure.

Every node has two addresses. The data address stands on a device of its own (`DATA`) that no link belongs to, and is
reached over the links, over several hops where two nodes are not joined directly. The management address (`ASIDE`) is
reached past the links, unshaped: it is for what no link should carry, such as rendezvous and barriers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgesim.network.passage import Counters as RelayCounters
from edgesim.network.relay import MOST_RATE, NotCarried, Tunnel, carried, packets_at_once
from edgesim.network.shaping import (
    HIGHEST_RATE,
    MTU,
    Counters,
    beyond_rate,
    limited,
    lowest_rate,
    netem_suffices,
    states,
)
from edgesim.topology.paths import ways
from edgesim.topology.problems import Refusal
from edgesim.topology.quantities import format_rate
from edgesim.topology.schema import Topology
from node_agent.job import Entrance, LinkSettings

DATA = "data0"
ASIDE = "mgmt0"

CONGESTION_CONTROL = "reno"
"""of every namespace: otherwise the host's own default would decide how transfers behave (bbr paces
them by itself). Reno is the one that every kernel has and lets any namespace choose (RFC 5681)."""

# 198.18.0.0/15 is set aside for tests of networks (RFC 2544): no route that a host has is hidden by it.
_DATA_NETWORK = "198.18.0"
_ASIDE_NETWORK = "198.19.0"
ASIDE_ROUTER = f"{_ASIDE_NETWORK}.254"
ASIDE_RANGE = f"{_ASIDE_NETWORK}.0/24"

Means = Literal["kernel", "netem", "relay"]
"""kernel: a veth pair, each end with a token bucket; netem: with netem behind it; relay: TUN devices with token
buckets, and a process between them"""


@dataclass(frozen=True)
class Kernel:
    """What was found to work here."""

    forbidden: str | None = None
    """why no network namespace can be had; None: they can"""
    unprivileged: bool = False
    """whether that takes a user namespace"""
    buckets: str | None = None
    """why tbf does not work; None: it does"""
    netem: bool = False
    tun: str | None = None
    """why TUN devices do not work; None: they do"""
    congestion: str | None = None
    """why the congestion control cannot be pinned; None: it can"""


Keys = tuple[str | int, ...]


class Unavailable(ValueError):
    """Links that cannot be imposed here: (path in the topology file, refusal) of each."""

    def __init__(self, problems: Sequence[tuple[Keys, Refusal]]) -> None:
        super().__init__("\n".join(f"{'.'.join(map(str, path))}: {refusal}" for path, refusal in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Wire:
    """Both directions of a link, between the nodes of ranks `ends`."""

    ends: tuple[int, int]
    forward: LinkSettings
    """from the first end to the second"""
    backward: LinkSettings
    means: Means

    def device(self, end: int) -> str:
        """The name of the device at end 0 or 1."""
        return device_to(self.ends[1 - end])

    def together(self, end: int) -> int:
        """How many packets of a TCP connection the device at end 0 or 1 may be given as one."""
        settings = self.leaving(end)
        # A size table adds its overhead once, whatever a frame holds.
        if self.means != "relay" or settings.overhead:
            return 1
        return min(packets_at_once(state.rate or 0.0, MTU) for state in states(settings))

    def at_once(self, end: int) -> int:
        """How many packets the token bucket at end 0 or 1 has to hold: two frames of a relayed link's."""
        return 2 * self.together(end) if self.means == "relay" else 1

    def leaving(self, end: int) -> LinkSettings:
        """The direction whose packets leave at end 0 or 1."""
        return (self.forward, self.backward)[end]


@dataclass(frozen=True)
class Plan:
    run: str
    nodes: tuple[str, ...]
    """in ring order: a node's rank is its place"""
    wires: tuple[Wire, ...]
    seed: int = 0

    @property
    def changing(self) -> bool:
        """Whether any link is not the same all the time."""
        links = [link for wire in self.wires for link in (wire.forward, wire.backward)]
        return any(link.schedule is not None or link.changes for link in links)

    def next_hops(self, rank: int) -> dict[int, int]:
        """For every other node the neighbour through which packets go to it: over the fewest links, and of several
        such ways the one whose nodes come first."""
        found = ways(range(len(self.nodes)), [wire.ends for wire in self.wires], rank)
        return {other: way[1] for other, way in found.items()}

    def egress(self, rank: int) -> str | None:
        """The device by which packets to the next node of the ring leave; None of a node that is alone."""
        following = (rank + 1) % len(self.nodes)
        return None if following == rank else device_to(self.next_hops(rank)[following])


@dataclass(frozen=True)
class Applied:
    """One direction of a link as the kernel (and the relay) report it."""

    link: LinkSettings
    """requested settings, with what was read back in the place of what was asked"""
    means: str
    burst: int | None
    """bytes; None: no token bucket"""
    offloads: tuple[str, ...]
    """that the device has: none but a relayed link's, which takes several packets of a connection at once"""
    counters: Counters
    relayed: RelayCounters | None
    """what the relay has done; None without one"""


@dataclass(frozen=True)
class Built:
    entrances: tuple[Entrance, ...]
    """of the nodes, in ring order"""
    relays: tuple[int, ...]
    """pids"""
    real_time: bool | None
    """whether all relays go before ordinary processes; None: there is none"""


def device_to(neighbour: int) -> str:
    """The name of a device at one end of a link, after the rank of the node at the other."""
    return f"to-{neighbour}"


def data_address(rank: int) -> str:
    return f"{_DATA_NETWORK}.{rank + 1}"


def aside_address(rank: int) -> str:
    return f"{_ASIDE_NETWORK}.{rank + 1}"


def make_plan(topology: Topology, run: str, kernel: Kernel) -> Plan:
    """How the links of a topology are imposed by this kernel.

    Raises Unavailable with everything that cannot be.
    """
    ranks = {name: rank for rank, name in enumerate(topology.ring)}
    if (why := kernel.forbidden or kernel.congestion) is not None:
        found = f"no network namespace here ({why})" if kernel.forbidden else why
        place: Keys = ("emulation", "links")
        raise Unavailable([(place, Refusal(found, "links: userspace, which needs no privileges"))])
    wires: list[Wire] = []
    problems: list[tuple[Keys, Refusal]] = []
    for index, link in enumerate(topology.links):
        source, target = link.between
        forward, backward = topology.link(source, target), topology.link(target, source)
        wire = Wire((ranks[source], ranks[target]), forward, backward, _means(forward, backward, kernel))
        wires.append(wire)
        problems += [(("links", index), refusal) for refusal in _refusals(wire, kernel)]
    if problems:
        raise Unavailable(problems)
    return Plan(run, tuple(topology.ring), tuple(wires), topology.seed)


def _means(forward: LinkSettings, backward: LinkSettings, kernel: Kernel) -> Means:
    directions = (forward, backward)
    if not any(beyond_rate(settings) for settings in directions):
        return "kernel"
    return "netem" if kernel.netem and all(netem_suffices(settings) for settings in directions) else "relay"


def _refusals(wire: Wire, kernel: Kernel) -> Iterator[Refusal]:
    directions = (wire.forward, wire.backward)
    both = f"{wire.forward.source}--{wire.forward.target}"
    if any(map(limited, directions)) and kernel.buckets is not None:
        yield Refusal(f"{both} with a rate; {kernel.buckets}", "no rate in this kernel, or links: userspace")
    elif wire.means == "relay" and kernel.tun is not None:
        yield Refusal(
            f"{both} with more than a rate, which takes TUN devices; {kernel.tun}",
            "rate alone here, or links: userspace",
        )
    else:
        for end, settings in enumerate(directions):
            yield from _out_of_range(settings, wire.at_once(end))
            if wire.means == "relay":
                yield from _not_carried(settings)


def _out_of_range(settings: LinkSettings, at_once: int) -> Iterator[Refusal]:
    lowest = lowest_rate(settings, at_once)
    for rate in sorted({state.rate for state in states(settings) if state.rate is not None}):
        if not lowest <= rate <= HIGHEST_RATE:
            allowed = f"{format_rate(lowest)} to {format_rate(HIGHEST_RATE)} with links: netns"
            yield Refusal(f"{settings.name} at {format_rate(rate)}", allowed)


def _not_carried(settings: LinkSettings) -> Iterator[Refusal]:
    try:
        carried(settings)
    except NotCarried as refusal:
        yield Refusal(f"{settings.name}: {refusal.found}", refusal.allowed)


def relay_groups(tunnels: Sequence[Tunnel]) -> list[list[Tunnel]]:
    """Which links share a relay's process: as many as one of the highest rate would keep busy."""
    groups: list[list[Tunnel]] = []
    room = 0.0
    for tunnel in tunnels:
        load = sum(max(state.rate or 0.0 for state in states(end)) for end in (tunnel.forward, tunnel.backward))
        if load > room:
            groups.append([])
            room = 2 * MOST_RATE
        groups[-1].append(tunnel)
        room -= load
    return groups


def describe(plan: Plan) -> dict[str, Any]:
    """For config.json: what imposes each link, and what TCP does."""
    return {
        "means": {"--".join((plan.nodes[wire.ends[0]], plan.nodes[wire.ends[1]])): wire.means for wire in plan.wires},
        "tcp_congestion_control": CONGESTION_CONTROL,
        "segmentation_offload": any(wire.means == "relay" for wire in plan.wires),
        "management_path": "rendezvous and barriers",
    }
