from __future__ import annotations

from pathlib import Path

import pytest

from edgesim.fleet.inventory import places_of, read_inventory
from edgesim.topology.problems import TopologyError
from edgesim.topology.reader import read
from edgesim.topology.schema import Topology

ADDRESS = "an address such as 10.0.0.11, orin-1.lab:7443 or [fd00::11]:7443"


def inventory(folder: Path, text: str) -> Path:
    path = folder / "boards.yaml"
    path.write_text(text)
    return path


def topology(folder: Path, text: str) -> Topology:
    path = folder / "ring.yaml"
    path.write_text(text)
    return read(path)


def test_the_boards_of_a_file(tmp_path: Path) -> None:
    text = "boards:\n  - {name: a, address: 10.0.0.1}\n  - {name: b, address: 'b.lab:80', serial: 7, ends: x}\n"
    found = read_inventory(inventory(tmp_path, text))
    assert [(place.name, str(place.address)) for place in found] == [("a", "10.0.0.1:7443"), ("b", "b.lab:80")]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("boards: []\n", ["1: boards: found an empty list, allowed a list of boards, each with name and address"]),
        ("board: 7\n", ["1: board: found an unknown key, allowed boards; did you mean 'boards'?",
                        "1: boards: found nothing, allowed a list of boards, each with name and address"]),
        ("boards:\n  - a\n", ["2: boards.0: found 'a', allowed a mapping of name and address"]),
        ("boards:\n  - {name: a}\n  - {nam: b, address: 1:2:3:4}\n", [
            f"2: boards.0.address: found nothing, allowed {ADDRESS}",
            "3: boards.1.nam: found an unknown key, allowed name or address; did you mean 'name'?",
            "3: boards.1.name: found nothing, allowed the board's name",
            f"3: boards.1.address: found '1:2:3:4', allowed {ADDRESS}"]),
        ("boards:\n  - {name: a, address: x}\n  - {name: a, address: y}\n  - {name: c, address: 'X:7443'}\n", [
            "3: boards.1.name: found 'a' a second time, allowed every board once",
            "4: boards.2.address: found x:7443 a second time, allowed one board there (a is)"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_places(text: str, problems: list[str], tmp_path: Path) -> None:
    path = inventory(tmp_path, text)
    with pytest.raises(TopologyError) as caught:
        read_inventory(path)
    assert str(caught.value).splitlines() == [f"{path}:{problem}" for problem in problems]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="no such file"):
        read_inventory(tmp_path / "none.yaml")


def test_nodes_have_the_boards_of_their_names_in_the_order_of_the_ring(tmp_path: Path) -> None:
    of = topology(tmp_path, "nodes: [a, b]\nring: [b, a]\n")
    assert places_of(of, None) is None
    boards = "boards: [{name: c, address: c}, {name: a, address: a}, {name: b, address: b}]\n"
    assert [place.name for place in places_of(of, inventory(tmp_path, boards)) or ()] == ["b", "a"]
    boards = "boards: [{name: x, address: x}, {name: y, address: y}, {name: z, address: z}]\n"
    assert [place.name for place in places_of(of, inventory(tmp_path, boards)) or ()] == ["y", "x"]
    own = topology(tmp_path, "nodes: [{name: a, address: one}, {name: b, address: two}]\nring: [b, a]\n")
    assert [str(place.address) for place in places_of(own, None) or ()] == ["two:7443", "one:7443"]
    assert [place.name for place in places_of(own, inventory(tmp_path, boards)) or ()] == ["y", "x"]


@pytest.mark.parametrize(
    ("nodes", "boards", "problem"),
    [
        (
            "[a, b]",
            "[{name: a, address: a}]",
            "boards: found no board for b, allowed the names of all nodes, or of none",
        ),
        ("[a, b]", "[{name: x, address: a}]", "boards: found 1 board(s) for 2 node(s), allowed a board for every node"),
    ],
)
def test_a_node_without_a_board_is_refused(nodes: str, boards: str, problem: str, tmp_path: Path) -> None:
    path = inventory(tmp_path, f"boards: {boards}\n")
    with pytest.raises(TopologyError) as caught:
        places_of(topology(tmp_path, f"nodes: {nodes}\n"), path)
    assert str(caught.value) == f"{path}: {problem}"


def test_no_inventory_beside_a_kernels_links(tmp_path: Path) -> None:
    of = topology(tmp_path, "nodes: [a, b]\nemulation: {links: netns}\n")
    with pytest.raises(TopologyError, match="found links: netns, and an inventory, allowed userspace"):
        places_of(of, inventory(tmp_path, "boards: [{name: a, address: a}, {name: b, address: b}]\n"))
