"""A topology as a network: means, routes and refusals; no privileges needed."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesim.network.plan import (
    Kernel,
    Plan,
    Unavailable,
    Wire,
    aside_address,
    data_address,
    describe,
    make_plan,
    relay_groups,
)
from edgesim.network.relay import MOST_RATE, Tunnel
from edgesim.topology.quantities import format_rate
from edgesim.topology.schema import MOST_NODES, Topology
from node_agent.job import LinkSettings


def topology(nodes: int = 3, **content: Any) -> Topology:
    return Topology.model_validate({"nodes": [f"n{i}" for i in range(nodes)], **content})


def plan_of(edges: list[tuple[int, int]], nodes: int) -> Plan:
    wires = []
    for a, b in edges:
        there, back = (LinkSettings(source=str(s), target=str(t)) for s, t in ((a, b), (b, a)))
        wires.append(Wire((a, b), there, back, "kernel"))
    return Plan("test", tuple(map(str, range(nodes))), tuple(wires))


def refusals(kernel: Kernel, **content: Any) -> list[str]:
    with pytest.raises(Unavailable) as caught:
        make_plan(topology(**content), "test", kernel)
    return str(caught.value).splitlines()


def test_a_link_is_imposed_by_no_more_than_it_takes() -> None:
    links = [
        {"between": ["n0", "n1"], "rate": "1 Mbit/s"},
        {"between": ["n1", "n2"], "rate": "1 Mbit/s", "reverse": {"delay": "5 ms"}},
        {"between": ["n2", "n0"], "rate": "1 Mbit/s", "delay": "5 ms", "jitter": "1 ms"},
    ]
    found = {
        netem: [wire.means for wire in make_plan(topology(links=links), "test", Kernel(netem=netem)).wires]
        for netem in (False, True)
    }
    assert found == {False: ["kernel", "relay", "relay"], True: ["kernel", "netem", "relay"]}


def test_ranks_follow_the_ring() -> None:
    plan = make_plan(topology(ring=["n2", "n0", "n1"]), "test", Kernel())
    assert plan.nodes == ("n2", "n0", "n1")
    assert [wire.ends for wire in plan.wires] == [(0, 1), (1, 2), (2, 0)]
    assert [wire.forward.name for wire in plan.wires] == ["n2->n0", "n0->n1", "n1->n2"]
    assert [wire.device(0) for wire in plan.wires] == ["to-1", "to-2", "to-0"]


def test_routes_of_a_line_go_along_it() -> None:
    """0 - 1 - 2 - 3: everything right of a node goes through its right neighbour."""
    plan = plan_of([(0, 1), (1, 2), (2, 3)], 4)
    assert plan.next_hops(0) == {1: 1, 2: 1, 3: 1}
    assert plan.next_hops(2) == {0: 1, 1: 1, 3: 3}
    assert [plan.egress(rank) for rank in range(4)] == ["to-1", "to-2", "to-3", "to-2"]
    assert plan_of([], 1).egress(0) is None


@given(st.integers(2, 9), st.data())
def test_every_route_arrives_over_the_fewest_links(nodes: int, data: st.DataObject) -> None:
    tree = [(data.draw(st.integers(0, node - 1)), node) for node in range(1, nodes)]
    pairs = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)).filter(lambda pair: pair[0] < pair[1])
    plan = plan_of(sorted({*tree, *data.draw(st.lists(pairs, max_size=4))}), nodes)
    graph = nx.Graph([wire.ends for wire in plan.wires])
    hops = [plan.next_hops(rank) for rank in range(nodes)]
    for source in range(nodes):
        for target in set(range(nodes)) - {source}:
            place, taken = source, 0
            while place != target:
                assert graph.has_edge(place, hops[place][target])
                place, taken = hops[place][target], taken + 1
            assert taken == nx.shortest_path_length(graph, source, target)


def test_addresses_of_the_largest_network_differ() -> None:
    addresses = [address(rank) for rank in range(MOST_NODES) for address in (data_address, aside_address)]
    assert len(set(addresses)) == 2 * MOST_NODES
    assert all(0 < int(address.rpartition(".")[2]) < 254 for address in addresses)


def test_forbidden_namespaces_are_refused_before_all_else() -> None:
    (line,) = refusals(Kernel(forbidden="not allowed to this user", tun="absent"), nodes=2)
    assert line == (
        "emulation.links: found no network namespace here (not allowed to this user), "
        "allowed links: userspace, which needs no privileges"
    )


def test_what_the_kernel_cannot_do_is_refused_with_its_link() -> None:
    delayed = {"link": {"rate": "1 Mbit/s", "delay": "5 ms"}}
    (line,) = refusals(Kernel(tun="/dev/net/tun (not allowed to this user)"), nodes=2, defaults=delayed)
    assert line.startswith("links.0: found n0--n1 with more than a rate, which takes TUN devices; /dev/net/tun")
    (line,) = refusals(Kernel(buckets="this kernel has no tbf"), nodes=2, defaults=delayed)
    assert line.startswith("links.0: found n0--n1 with a rate; this kernel has no tbf")


@pytest.mark.parametrize("link", [{"rate": "2 Gbit/s", "delay": "5 ms"}, {"delay": "5 ms"}])
def test_what_the_relay_cannot_carry_is_refused(link: dict[str, str]) -> None:
    lines = refusals(Kernel(), nodes=2, defaults={"link": link})
    assert [line.partition(": found ")[2].partition(":")[0] for line in lines] == ["n0->n1", "n1->n0"]
    assert f"at most {format_rate(MOST_RATE)}" in lines[0]


def test_rates_outside_the_buckets_range_are_refused() -> None:
    lines = refusals(Kernel(), nodes=2, defaults={"link": {"rate": "100 Gbit/s"}})
    assert "allowed 64 bit/s to 34.36 Gbit/s with links: netns" in lines[0]
    lines = refusals(Kernel(), nodes=2, defaults={"link": {"rate": "80 bit/s", "delay": "1 ms"}})
    assert "allowed 88 bit/s to 34.36 Gbit/s with links: netns" in lines[0]


def test_a_relay_is_given_no_more_than_it_carries() -> None:
    def tunnel(rate: float) -> Tunnel:
        return Tunnel(
            LinkSettings(source="a", target="b", rate=rate), LinkSettings(source="b", target="a", rate=rate), -1, -1
        )

    groups = relay_groups([tunnel(MOST_RATE * share) for share in (0.5, 0.5, 0.25, 0.5, 0.5, 1.0)])
    assert [len(group) for group in groups] == [2, 2, 1, 1]


def test_the_configuration_says_what_imposes_what() -> None:
    found = describe(make_plan(topology(2), "test", Kernel()))
    assert found["means"] == {"n0--n1": "kernel"}
    assert found["tcp_congestion_control"] == "reno"
