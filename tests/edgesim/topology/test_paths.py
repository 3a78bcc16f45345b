"""Ways of the ring over several links, and what they come to as one."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesim.topology.paths import Hop, composed, ring_hops, ways
from node_agent.job import Bursts, Change, LinkSettings, LinkState, Window


def link(source: str = "a", target: str = "b", **settings: Any) -> LinkSettings:
    return LinkSettings(source=source, target=target, **settings)


def windows(*spans: tuple[float, float]) -> tuple[Window, ...]:
    return tuple(Window(start=start, end=end) for start, end in spans)


def test_of_equally_short_ways_the_first_nodes_win() -> None:
    """0 - 3 over 1 and over 2; the way over 1 comes first, unless the order says otherwise."""
    square = [(0, 2), (2, 3), (0, 1), (3, 1)]
    assert ways(range(4), square, 0) == {1: (0, 1), 2: (0, 2), 3: (0, 1, 3)}
    assert ways((0, 2, 1, 3), square, 0)[3] == (0, 2, 3)


def test_links_of_strangers_are_passed_over() -> None:
    assert ways(("a", "b"), [("a", "x"), ("x", "b")], "a") == {}


graphs = st.integers(2, 6).flatmap(
    lambda nodes: st.tuples(
        st.just(nodes), st.sets(st.sampled_from([(a, b) for b in range(nodes) for a in range(b)]), min_size=1)
    )
)


@given(graphs)
def test_ways_are_the_first_of_all_shortest_ones(graph: tuple[int, set[tuple[int, int]]]) -> None:
    nodes, edges = graph
    network = nx.Graph(list(edges))
    network.add_nodes_from(range(nodes))
    for source in range(nodes):
        found = ways(range(nodes), edges, source)
        assert found.keys() == nx.node_connected_component(network, source) - {source}
        for target, way in found.items():
            assert list(way) == min(nx.all_shortest_paths(network, source, target))
            # What the next node does with a packet is what its predecessor has counted on.
            assert way[1:] == ways(range(nodes), edges, way[1]).get(target, (target,))


def test_a_ring_along_a_line_takes_every_direction_once() -> None:
    hops = ring_hops("abc", [("a", "b"), ("b", "c")])
    assert hops == {
        ("a", "b"): Hop(("a", "b"), (1,)),
        ("b", "c"): Hop(("b", "c"), (1,)),
        ("c", "a"): Hop(("c", "b", "a"), (1, 1)),
    }
    assert [hop.over for hop in hops.values()] == [(), (), ("b",)]


def test_hops_that_take_the_same_direction_share_its_rate() -> None:
    """Line a - b - c - d, ring a, c, b, d: a->c takes ab, bc; c->b takes cb; b->d takes bc, cd; d->a takes dc, cb, ba.
    Both bc and cb are taken twice."""
    joined = [("a", "b"), ("b", "c"), ("c", "d")]
    hops = ring_hops("acbd", joined)
    assert {"".join(hop.way): hop.sharing for hop in hops.values()} == {
        "abc": (1, 2),
        "cb": (2,),
        "bcd": (2, 1),
        "dcba": (1, 2, 1),
    }
    links = {
        ends: link(*ends, rate=30e6, changes=(Change(at=1.0, rate=8e6),))
        for pair in joined
        for ends in (pair, pair[::-1])
    }
    assert all(hop.shared for hop in hops.values())
    for hop in hops.values():
        found = hop.settings(links)
        assert (found.rate, found.changes[0].rate) == (15e6, 4e6)
        assert hop.settings(links, alone=True).rate == 30e6
        assert (found.source, found.target) == (hop.way[0], hop.way[-1])


def test_hops_without_a_way_are_left_out() -> None:
    assert set(ring_hops("abc", [("a", "b")])) == {("a", "b")}
    assert ring_hops("a", []) == {}


def test_two_links_as_one() -> None:
    """Delay 3 + 4 ms; jitter √(3² + 4²) = 5 ms; loss 1 - 0.9 · 0.8 = 0.28; the second is the narrower: its queue and
    framing."""
    first = link("a", "b", rate=2e6, delay=0.003, jitter=0.003, loss=0.1, queue=9000, overhead=68, deadline=5.0)
    second = link("b", "c", rate=1e6, delay=0.004, jitter=0.004, loss=0.2, queue=7000, jitter_kind="pareto")
    found = composed([first, second])
    assert (found.delay, found.jitter, found.loss) == pytest.approx((0.007, 0.005, 0.28))
    rest = {"rate": 1e6, "jitter_kind": "pareto", "queue": 7000, "overhead": 0, "deadline": 5.0}
    assert found == link("a", "c", delay=found.delay, jitter=found.jitter, loss=found.loss, **rest)


def test_it_is_open_while_all_are() -> None:
    """[0, 10] and [20, 30] with [5, 25]: [5, 10] and [20, 25]."""
    often, once = link(schedule=windows((0, 10), (20, 30))), link(schedule=windows((5, 25)))
    assert composed([often, once, link()]).schedule == windows((5, 10), (20, 25))
    assert composed([link(), link()]).schedule is None
    assert composed([link(schedule=windows((0, 1))), link(schedule=windows((1, 2)))]).schedule == ()


def test_changes_of_any_link_are_changes_of_the_whole() -> None:
    """Delays 1 + 2 ms, from 5 s on 4 + 2, from 7 s on 4 + 8 ms; the rate is 1 Mbit/s until the second opens wide."""
    first = link(rate=3e6, delay=0.001, changes=(Change(at=5.0, rate=3e6, delay=0.004),))
    second = link(rate=1e6, delay=0.002, changes=(Change(at=7.0, delay=0.008),))
    found = composed([first, second])
    assert [(change.at, change.rate) for change in found.changes] == [(5.0, 1e6), (7.0, 3e6)]
    assert [state.delay for state in (found, *found.changes)] == pytest.approx([0.003, 0.006, 0.012])


def test_bursts_are_added_to_exactly() -> None:
    """Half of all packets meet the bad state (enter = leave), which loses 0.4: a mean of 0.2. With 0.1 lost besides,
    it loses 1 - 0.6 · 0.9 = 0.46, the good one 0.1: a mean of 0.28 = 1 - 0.8 · 0.9."""
    bursty = link(loss=0.2, bursts=Bursts(enter=0.1, leave=0.1, lost_inside=0.4))
    found = composed([bursty, link(loss=0.1)])
    assert found.bursts is not None
    assert (found.bursts.lost_inside, found.bursts.lost_outside) == pytest.approx((0.46, 0.1))
    assert found.loss == pytest.approx(found.bursts.mean) == pytest.approx(0.28)


def states(**more: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "rate": st.none() | st.floats(1e3, 1e9),
        "delay": st.floats(0, 10),
        "jitter": st.floats(0, 1),
        "loss": st.floats(0, 0.99),
        **more,
    }


spans = st.lists(st.integers(0, 40), unique=True, min_size=2, max_size=8).map(sorted)
any_link = st.builds(
    LinkSettings,
    source=st.just("a"),
    target=st.just("b"),
    overhead=st.integers(0, 200),
    queue=st.none() | st.integers(1, 10**6),
    deadline=st.none() | st.floats(0, 100),
    schedule=st.none() | spans.map(lambda edges: windows(*zip(edges[::2], edges[1::2], strict=False))),
    changes=st.lists(
        st.builds(Change, **states(at=st.integers(0, 40))), max_size=3, unique_by=lambda change: change.at
    ).map(lambda changes: tuple(sorted(changes, key=lambda change: change.at))),
    **states(),
)


def is_open(settings: LinkSettings, moment: float) -> bool:
    schedule = settings.schedule
    return schedule is None or any(window.start <= moment < window.end for window in schedule)


@given(st.lists(any_link, min_size=1, max_size=4), st.integers(-1, 41))
def test_at_any_moment_the_whole_is_what_its_links_are(links: list[LinkSettings], moment: float) -> None:
    whole = composed(links)
    state, parts = whole.state_at(moment), [one.state_at(moment) for one in links]
    rates = [part.rate for part in parts if part.rate is not None]
    assert state.rate == (min(rates) if rates else None)
    assert state.delay == pytest.approx(sum(part.delay for part in parts))
    assert state.jitter**2 == pytest.approx(sum(part.jitter**2 for part in parts))
    assert math.log1p(-state.loss) == pytest.approx(sum(math.log1p(-part.loss) for part in parts), abs=1e-9)
    assert is_open(whole, moment) == all(is_open(one, moment) for one in links)
    assert (whole.overhead, whole.queue) in {(one.overhead, one.queue) for one in links}


@given(st.lists(any_link, min_size=2, max_size=4), st.integers(0, 40))
def test_nothing_depends_on_how_links_are_grouped_or_ordered(links: list[LinkSettings], moment: int) -> None:
    whole: LinkState = composed(links).state_at(moment)
    others = [composed([composed(links[:-1]), links[-1]]), *(composed(order) for order in permutations(links))]
    for other in others:
        state = other.state_at(moment)
        assert state.rate == whole.rate
        for name in ("delay", "jitter", "loss"):
            assert getattr(state, name) == pytest.approx(getattr(whole, name))
