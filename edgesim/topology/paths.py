"""The ring over links: the way that each of its hops takes, several links long where no link joins two neighbours, and
what such a way comes to as one link. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from node_agent.job import Bursts, Change, LinkSettings, LinkState, Window
from node_agent.link_model import PACKET

Node = TypeVar("Node", bound=Hashable)
Ends = tuple[str, str]


def ways(order: Sequence[Node], joined: Iterable[tuple[Node, Node]], source: Node) -> dict[Node, tuple[Node, ...]]:
    """From `source` to every other node that it can reach, both ends included: over the fewest links, and of several
    such ways the one whose nodes come first in `order`. Links of nodes that are not in it are passed over.

    Every rest of such a way is itself such a way, so that nodes which each know only their next one all agree.
    """
    import networkx as nx  # takes long, and processes that hold a network do without it

    rank = {node: place for place, node in enumerate(order)}
    graph = nx.Graph()
    graph.add_nodes_from(order)
    graph.add_edges_from((one, other) for one, other in joined if one in rank and other in rank)
    found: dict[Node, tuple[Node, ...]] = {source: (source,)}
    # Breadth first, nodes of equal distance in the order of their ways: the first to reach a node does so the best way.
    for before, after in nx.bfs_edges(graph, source, sort_neighbors=lambda near: sorted(near, key=rank.__getitem__)):
        found[after] = (*found[before], after)
    del found[source]
    return found


@dataclass(frozen=True)
class Hop:
    """What joins a node of the ring to the next one."""

    way: tuple[str, ...]
    """the two and the nodes between them, in the order of travel"""
    sharing: tuple[int, ...]
    """of each link of the way, how many hops of the ring take it in this direction"""

    @property
    def links(self) -> list[Ends]:
        """Source and target of each link."""
        return list(pairwise(self.way))

    @property
    def over(self) -> tuple[str, ...]:
        """The nodes in between; none where a link joins the two."""
        return self.way[1:-1]

    @property
    def shared(self) -> bool:
        """Whether another hop takes one of its links, in the same direction."""
        return any(hops > 1 for hops in self.sharing)

    @property
    def whole(self) -> bool:
        """Whether it is a link, and the only hop to take it in this direction."""
        return self.sharing == (1,)

    def settings(self, links: Mapping[Ends, LinkSettings], alone: bool = False) -> LinkSettings:
        """As one link, from those of the way by source and target: itself where the hop is the whole of one, else
        `composed`, links that k hops of the ring take in the same direction with rate / k; `alone`: with all of it.

        All hops of a ring send at once, so that a k-th of the rate is what each of them is left with in the long run
        (TCP shares a bottleneck about evenly where the round trips are alike). Nothing keeps a hop from taking more
        while the others are silent: probes do not judge the rate of such a hop, and its messages are expected no later
        than they come when it is alone, so that what they wait for the others counts as delay.
        """
        if self.whole:
            return links[self.way[0], self.way[1]]
        shares = [1] * len(self.sharing) if alone else self.sharing
        return composed([_shared(links[ends], hops) for ends, hops in zip(self.links, shares, strict=True)])


def ring_hops(ring: Sequence[str], joined: Iterable[Ends]) -> dict[Ends, Hop]:
    """By source and target the hops of the ring, each over the way that `ways` finds; those that have none are left
    out. The order of the ring is that in which ways are chosen."""
    if len(ring) < 2:
        return {}
    joined = list(joined)
    pairs = pairwise((*ring, ring[0]))
    found = {pair: way for pair in pairs if (way := ways(ring, joined, pair[0]).get(pair[1])) is not None}
    taken = Counter(ends for way in found.values() for ends in pairwise(way))
    return {pair: Hop(way, tuple(taken[ends] for ends in pairwise(way))) for pair, way in found.items()}


def composed(links: Sequence[LinkSettings]) -> LinkSettings:
    """Links one behind the other, as one: what a connection over all of them finds, packets being forwarded as they
    come.

    Delays add up, and so do variances of independent delays: jitter is the root of the sum of squares, of the kind of
    the link that has most. A packet comes through if no link loses it: loss is 1 - Π (1 - loss). The narrowest link
    decides, the one that leaves payload the least rate at first: its framing and its queue are kept, the largest of
    several alike; the rate is the least. A change of any link is one of the whole, which is open while all of them
    are; the shortest deadline holds.

    What each further node adds by taking a packet in whole before it passes it on is left out: a token bucket lets
    single packets pass at once, and packets of a stream are under way on all links at the same time.
    """
    narrowest = min(links, key=lambda link: (_payload_rate(link), -link.overhead, -(link.queue or 0)))
    widest = max(links, key=lambda link: max(state.jitter for state in (link, *link.changes)))
    moments = sorted({change.at for link in links for change in link.changes})
    return LinkSettings(
        source=links[0].source,
        target=links[-1].target,
        **_together(links).model_dump(),
        jitter_kind=widest.jitter_kind,
        reorder=any(link.reorder for link in links),
        queue=narrowest.queue,
        overhead=narrowest.overhead,
        schedule=_common([link.schedule for link in links]),
        changes=tuple(
            Change(at=moment, **_together([link.state_at(moment) for link in links]).model_dump()) for moment in moments
        ),
        deadline=min((link.deadline for link in links if link.deadline is not None), default=None),
    )


def _together(states: Sequence[LinkState]) -> LinkState:
    loss, bursts = _losses(states)
    return LinkState(
        rate=min((state.rate for state in states if state.rate is not None), default=None),
        delay=math.fsum(state.delay for state in states),
        jitter=math.hypot(*(state.jitter for state in states)),
        loss=loss,
        bursts=bursts,
    )


def _losses(states: Sequence[LinkState]) -> tuple[float, Bursts | None]:
    """Loss of any of them, and how it clusters: as on the link with the longest bursts, to both of whose states the
    mean losses of the others are added. That is exact where the others lose each packet on its own."""
    loss = 1 - math.prod(1 - state.loss for state in states)
    clustered = [state for state in states if state.bursts is not None and state.loss]
    if not clustered:
        return loss, None
    longest = min(clustered, key=lambda state: state.bursts.leave if state.bursts is not None else 1.0)
    bursts = longest.bursts
    assert bursts is not None
    kept = math.prod(1 - state.loss for state in states if state is not longest)
    inside, outside = (1 - (1 - lost) * kept for lost in (bursts.lost_inside, bursts.lost_outside))
    return loss, bursts.model_copy(update={"lost_inside": inside, "lost_outside": outside})


def _common(schedules: Iterable[tuple[Window, ...] | None]) -> tuple[Window, ...] | None:
    """When all are open; None: always."""
    common: tuple[Window, ...] | None = None
    for windows in schedules:
        if common is None or windows is None:
            common = windows if common is None else common
            continue
        both = ((max(one.start, other.start), min(one.end, other.end)) for one in common for other in windows)
        common = tuple(Window(start=start, end=end) for start, end in both if start < end)
    return common


def _payload_rate(link: LinkSettings) -> float:
    return math.inf if link.rate is None else link.rate / (1 + link.overhead / PACKET)


def _shared(link: LinkSettings, hops: int) -> LinkSettings:
    """A `hops`-th of its rate."""
    if hops == 1:
        return link

    def part(rate: float | None) -> float | None:
        return None if rate is None else rate / hops

    changes = tuple(change.model_copy(update={"rate": part(change.rate)}) for change in link.changes)
    return link.model_copy(update={"rate": part(link.rate), "changes": changes})
