from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from edgesim.topology.picture import draw, ring
from edgesim.topology.schema import Topology


def topology(size: int, **data: Any) -> Topology:
    link = {"rate": "10 Mbit/s", "delay": "4.8 ms"}
    return Topology.model_validate({"nodes": [f"sat-{i}" for i in range(size)], "defaults": {"link": link}} | data)


def printed(what: Topology, encoding: str = "utf-8", width: int = 80) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(draw(what))
    file.seek(0)
    return file.read()


def test_four_nodes() -> None:
    square = """\
╭───────╮         10 Mbit/s · 4.8 ms          ╭───────╮
│ sat-0 ├────────────────────────────────────▶│ sat-1 │
╰───────╯                                     ╰───┬───╯
    ▲  10 Mbit/s · 4.8 ms     10 Mbit/s · 4.8 ms  │
    │                                             ▼
╭───┴───╮                                     ╭───────╮
│ sat-3 │◀────────────────────────────────────┤ sat-2 │
╰───────╯         10 Mbit/s · 4.8 ms          ╰───────╯"""
    assert ring(topology(4)) == square


def test_three_nodes_turn_a_corner() -> None:
    assert ring(topology(3)).splitlines()[3:8] == [
        "    ▲                         10 Mbit/s · 4.8 ms  │",
        "    │                                             ▼",
        "    │                                         ╭───────╮",
        "    ╰─────────────────────────────────────────┤ sat-2 │",
        "                10 Mbit/s · 4.8 ms            ╰───────╯",
    ]


def test_two_nodes_use_one_link_both_ways() -> None:
    link = {"between": ["sat-0", "sat-1"], "reverse": {"rate": "2 Mbit/s"}}
    assert ring(topology(2, links=[link])) == (
        "           ▶ 10 Mbit/s · 4.8 ms\n"
        "╭───────╮  ◀ 2 Mbit/s · 4.8 ms   ╭───────╮\n"
        "│ sat-0 ├◀──────────────────────▶│ sat-1 │\n"
        "╰───────╯                        ╰───────╯"
    )


def test_one_node_stands_alone() -> None:
    assert "alone" in ring(topology(1))
    assert "from" not in str(draw(topology(1)))


@pytest.mark.parametrize("size", range(1, 17))
def test_every_node_and_link_is_drawn_within_80_columns(size: int) -> None:
    what = topology(size)
    picture = ring(what)
    assert max(map(len, picture.splitlines())) <= 80
    assert all(f" sat-{i} " in picture for i in range(size))
    labels = {1: 0, 2: 1}.get(size, size)
    assert picture.count("10 Mbit/s · 4.8 ms") == labels
    assert sum(map(picture.count, "▶◀▲▼")) == {1: 0, 2: 2}.get(size, size)
    text = str(draw(what))
    assert max(map(len, text.splitlines())) <= 80
    for link in what.directed_links():
        assert any(line.split()[:2] == [link.source, link.target] for line in text.splitlines())


def test_the_reversed_direction_of_a_link_follows_the_ring() -> None:
    link = {"between": ["sat-1", "sat-0"], "rate": "1 kbit/s", "reverse": {"rate": "2 kbit/s"}}
    picture = ring(topology(2, links=[link]))
    assert "▶ 2 kbit/s" in picture
    assert "◀ 1 kbit/s" in picture


def test_loss_jitter_and_contacts_are_told() -> None:
    schedule = [{"from": "0 s", "to": "480 s"}, {"from": "90 min", "to": "100 min"}]
    what = topology(3, defaults={"link": {"jitter": "0.2 ms", "loss": "1 %", "schedule": schedule}})
    for text in (ring(what), str(draw(what))):
        for part in ("0.2 ms", "1 %", "0 s to 100 min"):
            assert part in text


def test_a_density_that_follows_the_link_is_told_with_its_bounds() -> None:
    training = {"compressor": ["topk", "none"], "density": {"lowest": 0.002}}
    text = " ".join(str(draw(topology(2, training=training))).split())
    assert "compressor topk density auto (0.002 to 0.25) · none" in text


def test_long_names_keep_their_ends_in_the_ring_and_all_of_them_in_the_table() -> None:
    names = [f"earth-observation-satellite-{i}" for i in range(4)]
    what = topology(4, nodes=names)
    picture = ring(what)
    assert max(map(len, picture.splitlines())) <= 80
    assert all(f"earth-obs…atellite-{i}" in picture for i in range(4))
    assert all(printed(what, width=160).count(name) == 4 for name in names)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    schedule = [{"from": "0 s", "to": "480 s"}]
    what = topology(5, defaults={"link": {"delay": "50 us", "jitter": "1 us", "loss": "1 %", "schedule": schedule}})
    assert printed(what, encoding="ascii").isascii()
    assert "sat-4" in printed(what, encoding="ascii")


def test_names_are_not_taken_for_markup() -> None:
    text = printed(topology(2, training={"scene": "[bold]scene[/bold].mat", "compressor": ["none", "gcc"]}))
    assert "[bold]scene[/bold].mat" in text
    assert "none · gcc density 0.5" in text


def test_a_hop_over_several_links_says_over_which_nodes() -> None:
    links = [{"between": ["sat-0", "sat-1"]}, {"between": ["sat-1", "sat-2"], "rate": "2 Mbit/s"}]
    found = topology(3, links=links, emulation={"links": "netns"})
    assert "over sat-1 · 2 Mbit/s · 9.6 ms" in ring(found)
    rows = [line.split() for line in str(draw(found)).splitlines() if line.strip().startswith("sat-")]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("sat-0", "sat-1", "yes"),
        ("sat-1", "sat-0", "yes"),
        ("sat-1", "sat-2", "yes"),
        ("sat-2", "sat-1", "yes"),
    ]
