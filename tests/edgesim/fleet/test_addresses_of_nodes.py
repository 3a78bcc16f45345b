"""`address` in a topology file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesim.topology.reader import TopologyError, read
from edgesim.topology.schema import Topology

ADDRESS = "an address such as 10.0.0.11, orin-1.lab:7443 or [fd00::11]:7443"


def topology(folder: Path, *lines: str) -> Topology:
    file = folder / "ring.yaml"
    file.write_text("\n".join(lines) + "\n")
    return read(file)


def test_an_address_is_read_and_completed(tmp_path: Path) -> None:
    found = topology(tmp_path, "nodes:", "  - {name: a, address: 10.0.0.11}", "  - {name: b, address: 'orin-2:80'}")
    assert [node.address for node in found.nodes] == ["10.0.0.11:7443", "orin-2:80"]
    assert topology(tmp_path, "nodes: [a, b]").node("a").address is None


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        (
            ["nodes:", "  - {name: a, address: 'http://a'}"],
            [f"2: nodes.0.address: found 'http://a', allowed {ADDRESS}"],
        ),
        (
            ["nodes:", "  - {name: a, address: 10.0.0.1}", "  - b", "  - {name: c}"],
            [
                "3: nodes.1: found a node without address beside 1 with one, "
                "allowed an address for every node, or for none",
                "4: nodes.2: found a node without address beside 1 with one, "
                "allowed an address for every node, or for none",
            ],
        ),
        (
            ["nodes:", "  - {name: a, address: Orin}", "  - {name: b, address: 'orin:7443'}"],
            [
                "3: nodes.1.address: found orin:7443 a second time (the first is nodes.0), "
                "allowed a board of its own for every node"
            ],
        ),
        (
            ["nodes: [{name: a, address: a}, {name: b, address: b}]", "emulation: {links: netns}"],
            [
                "2: emulation.links: found netns, and nodes that have an address, "
                "allowed userspace: boards impose their links themselves"
            ],
        ),
    ],
)
def test_addresses_that_do_not_fit_are_refused_at_their_place(
    lines: list[str], problems: list[str], tmp_path: Path
) -> None:
    with pytest.raises(TopologyError) as caught:
        topology(tmp_path, *lines)
    assert str(caught.value).splitlines() == [f"{tmp_path}/ring.yaml:{problem}" for problem in problems]
