"""The files that ship with the project say what their comments say."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi, radians, sin, sqrt
from pathlib import Path

import pytest

from edgesim.topology.computing import boards
from edgesim.topology.events import pauses
from edgesim.topology.reader import read
from node_agent.compression.settings import GCCSettings, NoneSettings, NSISettings

FOLDER = Path(__file__).parents[3] / "topologies"
EARTH_RADIUS = 6371.0
LIGHT = 299792.458


def test_every_file_is_named_after_its_topology_and_begins_with_a_comment() -> None:
    files = sorted(FOLDER.glob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        assert read(file).name == file.stem
        assert file.read_text(encoding="utf-8").startswith("# ")


def test_leo_ring_delays_follow_from_the_spacing() -> None:
    found = read(FOLDER / "leo-ring-4.yaml")
    radius = EARTH_RADIUS + 550
    for link in found.directed_links():
        hops = abs(int(link.source[-1]) - int(link.target[-1]))
        chord = 2 * radius * sin(radians(12 * hops / 2))
        assert hops <= 2
        assert link.delay == pytest.approx(chord / LIGHT, abs=5e-8)
        assert link.rate == 10e6
    assert radius * cos(radians(12)) - EARTH_RADIUS == pytest.approx(398.8, abs=0.05)
    assert [link.name for link in found.ring_links()] == [
        "sat-0->sat-1",
        "sat-1->sat-3",
        "sat-3->sat-2",
        "sat-2->sat-0",
    ]
    assert found.training.compressor == (NoneSettings(), GCCSettings(density=0.5), NSISettings(density=0.02))
    assert found.emulation.clock == "wall"


def test_lab_bench_is_slower_in_one_direction() -> None:
    there, back = read(FOLDER / "lab-bench-2.yaml").ring_links()
    assert (there.rate, back.rate) == (100e6, 20e6)
    assert there.delay == back.delay == 0.0003


def test_the_shelf_has_four_boards_of_which_one_is_slow() -> None:
    found = read(FOLDER / "jetson-shelf-4.yaml")
    assert found.compute == "modelled"
    peaks = {name: board.device.peak_flop_s(board.mode) for name, board in boards(found).items()}
    assert peaks == {
        "nano": 2 * 128 * 640e6,
        "xavier": 2 * 384 * 1109.25e6,
        "orin-nano": 2 * 1024 * 625e6,
        "agx-orin": 2 * 2048 * 816e6,
    }
    assert peaks["agx-orin"] == pytest.approx(20 * peaks["nano"], rel=0.03)


def test_single_node_has_no_links() -> None:
    found = read(FOLDER / "single-node.yaml")
    assert found.world_size == 1
    assert found.ring_links() == []


def test_cubesat_contacts_come_once_an_orbit() -> None:
    found = read(FOLDER / "uhf-cubesat-3.yaml")
    orbit = 2 * pi * sqrt((EARTH_RADIUS + 500) ** 3 / 398600.4418)
    assert found.emulation.clock == "virtual"
    assert {link.rate for link in found.directed_links()} == {9600}
    assert {link.loss for link in found.directed_links()} == {0.01}
    assert found.link("cube-0", "cube-1").schedule is None
    first, second = (found.link(*ends).schedule for ends in (("cube-1", "cube-2"), ("cube-2", "cube-0")))
    assert first is not None
    assert second is not None
    for windows in (first, second):
        assert all(window.end - window.start == 480 for window in windows)
        periods = [after.start - before.start for before, after in pairwise(windows)]
        assert periods == pytest.approx([orbit] * 7, abs=3)
    assert [min(a.end, b.end) - max(a.start, b.start) for a, b in zip(first, second, strict=True)] == [360] * 8


def test_the_degraded_links_have_their_bad_day() -> None:
    found = read(FOLDER / "degraded-3.yaml")
    there, back = found.link("sat-0", "sat-1"), found.link("sat-1", "sat-0")
    assert [there.state_at(moment).rate for moment in (19, 20, 29, 30)] == [10e6, 2e6, 2e6, 10e6]
    assert there.state_at(25).loss == 0.1
    assert back.changes == ()
    assert [found.link("sat-2", "sat-1").state_at(moment).rate for moment in (0, 10)] == [10e6, 4e6]
    first, second = found.link("sat-0", "sat-2").schedule or ()
    assert (first.end, second.start) == (40, 45)
    assert [(pause.start, pause.end) for pause in pauses(found.events, "sat-1")] == [(55, 63)]
    for link in found.directed_links():
        assert link.bursts is not None
        assert link.bursts.leave == 1 / 4
