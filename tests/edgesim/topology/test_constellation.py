from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesim.orbit.earth import LIGHT
from edgesim.topology.constellation import Constellation
from edgesim.topology.reader import TopologyError, read, read_constellation
from edgesim.topology.schema import Topology
from edgesim.topology.visibility import Passage, eclipses, overlap
from node_agent.job import Change, LinkSettings, Window

EXAMPLE = """\
constellation:
  epoch: 2026-03-20T00:00:00Z
  duration: 1 d
  shells:
    - {name: sat, altitude: 550 km, inclination: 53 deg, satellites: 12}
  stations:
    - {name: madrid, latitude: 40.43 deg, longitude: -4.25 deg}
"""
ISS = """\
ISS (ZARYA)
1 25544U 98067A   19343.69339541  .00001764  00000-0  38792-4 0  9991
2 25544  51.6439 211.2001 0007417  17.6667  85.6398 15.50103472202482
"""


def topology(folder: Path, text: str, *overrides: str) -> Topology:
    path = folder / "orbit.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return read(path, overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the refusal, the folder left out."""
    with pytest.raises(TopologyError) as refusal:
        topology(folder, text, *overrides)
    return str(refusal.value).replace(f"{folder}/", "").splitlines()


def test_all_satellites_make_a_ring_whose_links_follow_from_the_orbit(tmp_path: Path) -> None:
    made = topology(tmp_path, EXAMPLE)
    assert made.ring == tuple(f"sat-{i}" for i in range(12))
    for link in made.ring_links():
        # 2 · 6921 km · sin(15°) / c
        assert link.delay == pytest.approx(11.9502e-3, abs=1e-7)
        assert link.schedule == (Window(start=0, end=86400),)
        assert link.changes == ()


def test_satellites_of_several_planes_are_named_by_plane_and_slot(tmp_path: Path) -> None:
    made = topology(
        tmp_path,
        EXAMPLE,
        "constellation.shells.0={name: sat, altitude: 550 km, inclination: 53 deg, planes: 3, satellites: 20}",
        "ring=[sat-0-0, sat-0-1, sat-0-2]",
    )
    assert [node.name for node in made.nodes] == ["sat-0-0", "sat-0-1", "sat-0-2"]
    assert made.constellation is not None
    assert len(made.constellation.satellites) == 60


def test_a_link_to_the_ground_opens_with_each_pass_and_its_delay_follows_the_range(tmp_path: Path) -> None:
    made = topology(tmp_path, EXAMPLE, "nodes=[sat-0, madrid]", "defaults.link={rate: 2 Mbit/s, jitter: 1 ms}")
    there, back = made.link("sat-0", "madrid"), made.link("madrid", "sat-0")
    assert there.schedule is not None
    assert 4 <= len(there.schedule) <= 8
    assert all(window.end - window.start < 8.4 * 60 for window in there.schedule)
    # From the slant range at 10 degrees (1815 km and what the ellipsoid adds) to no less than 550 km.
    delays = [there.delay, *(change.delay for change in there.changes)]
    assert 1.83e-3 < min(delays) < 3e-3
    assert 6.0e-3 < max(delays) < 6.15e-3
    assert [change.at for change in there.changes] == sorted({change.at for change in there.changes})
    assert {(change.rate, change.jitter) for change in there.changes} == {(2e6, 1e-3)}
    assert back == there.model_copy(update={"source": "madrid", "target": "sat-0"})
    bits = there.state_at(there.schedule[2].start)
    assert bits.delay * LIGHT == pytest.approx(1822e3, abs=20e3)


def test_links_between_planes_change_and_open_as_the_orbits_have_it(tmp_path: Path) -> None:
    overrides = ("constellation.shells.0.planes=6", "nodes=[sat-0-0, sat-1-0]", "constellation.duration=2 h")
    link = topology(tmp_path, EXAMPLE, *overrides).link("sat-0-0", "sat-1-0")
    # 60 degrees apart at the equator, where the line between them would pass 378 km below the ground; at 53 degrees of
    # latitude 35 degrees apart. Two such approaches a revolution.
    assert link.schedule is not None
    assert 2 <= len(link.schedule) <= 4
    assert len(link.changes) > 50


def test_windows_of_the_file_narrow_those_of_the_orbit(tmp_path: Path) -> None:
    free = topology(tmp_path, EXAMPLE, "nodes=[sat-0, madrid]").link("sat-0", "madrid").schedule
    assert free is not None
    middle = (free[1].start + free[1].end) / 2
    file = (
        EXAMPLE
        + f"nodes: [sat-0, madrid]\nlinks: [{{between: [madrid, sat-0], schedule: [{{from: {middle} s, to: 1 d}}]}}]"
    )
    narrowed = topology(tmp_path, file).link("sat-0", "madrid").schedule
    assert narrowed == (Window(start=middle, end=free[1].end), *free[2:])


def test_what_happens_to_a_link_happens_on_top_of_its_orbit(tmp_path: Path) -> None:
    file = EXAMPLE + dedent("""\
        defaults: {link: {rate: 2 Mbit/s, schedule: [{at: 1 h, loss: 1 %}]}}
        nodes: [sat-0, sat-1]
        events:
          - {at: 2 h, event: degrade, link: [sat-0, sat-1], rate: 1 Mbit/s, for: 1 h}
          - {at: 5 h, event: down, link: [sat-0, sat-1], for: 1 h}
        """)
    link = topology(tmp_path, file).link("sat-0", "sat-1")
    assert link.schedule == (Window(start=0, end=5 * 3600), Window(start=6 * 3600, end=86400))
    states = [link.state_at(hours * 3600) for hours in (0.5, 1.5, 2.5, 3.5)]
    assert [(state.rate, state.loss) for state in states] == [(2e6, 0.0), (2e6, 0.01), (1e6, 0.01), (2e6, 0.01)]
    assert {state.delay for state in states} == {link.delay}
    assert link.delay == pytest.approx(11.9502e-3, abs=1e-7)


def test_a_queue_holds_what_is_under_way(tmp_path: Path) -> None:
    # 35786 km: 238.7 ms there and back; 100 Mbit/s of that are 2.98 MB.
    file = """\
        constellation:
          epoch: 2026-03-20T00:00:00Z
          shells: [{name: geo, altitude: 35786 km, inclination: 0 deg, satellites: 1, raan: 178 deg}]
          stations: [{name: quito, latitude: 0 deg, longitude: 0 deg}]
          duration: 1 h
        defaults: {link: {rate: 100 Mbit/s}}
        nodes: [geo-0, quito]
        """
    link = topology(tmp_path, file).link("geo-0", "quito")
    assert link.queue == pytest.approx(100e6 / 8 * 2 * link.delay, rel=0.01)
    assert 2.9e6 < (link.queue or 0) < 3.2e6
    assert topology(tmp_path, file, "defaults.link.queue=1 MB").link("geo-0", "quito").queue == 10**6


def test_links_of_other_nodes_are_as_the_file_has_them(tmp_path: Path) -> None:
    file = EXAMPLE + "defaults: {link: {delay: 7 ms}}\nnodes: [sat-0, sat-1, server]"
    made = topology(tmp_path, file)
    assert made.link("sat-1", "server").delay == 7e-3
    assert made.link("sat-1", "server").schedule is None
    assert made.link("sat-0", "sat-1").delay == pytest.approx(11.9502e-3, abs=1e-7)


def test_elements_come_from_a_file_beside_the_topology(tmp_path: Path) -> None:
    (tmp_path / "iss.tle").write_text(ISS)
    file = """\
        constellation:
          epoch: 2019-12-09T18:00:00Z
          tles: [{file: iss.tle}]
          stations: [{name: zurich, latitude: 47.4 deg, longitude: 8.5 deg}]
        nodes: [ISS-ZARYA, zurich]
        """
    schedule = topology(tmp_path, file).link("zurich", "ISS-ZARYA").schedule
    assert schedule is not None
    assert 4 <= len(schedule) <= 7
    assert problems(tmp_path, file, "constellation.tles.0.file=none.tle") == [
        "orbit.yaml:3: constellation.tles.0: found none.tle, which cannot be read (No such file or directory), allowed "
        "a file of two-line elements"
    ]
    assert problems(tmp_path, file, "constellation.epoch=2020-03-09T18:00:00Z") == [
        "orbit.yaml:1: constellation: found elements made 91 days before the epoch, allowed at most 30 days"
    ]


def test_a_ring_whose_neighbours_do_not_see_each_other_is_refused(tmp_path: Path) -> None:
    file = EXAMPLE.replace("550 km", "500 km").replace("satellites: 12", "satellites: 8")
    reason = (
        "found no line of sight between {}: it passes 23 km below the ground{}, allowed a line at least 80 km above "
        "it: at an altitude of 500 km the two at most 40.2735 deg apart, 9 satellites or more in an evenly filled plane"
    )
    assert problems(tmp_path, file) == [
        "orbit.yaml:5: constellation.shells.0.satellites: "
        + reason.format("sat-0 and sat-1", " (and so for 7 other pairs)")
    ]
    assert problems(tmp_path, file + "nodes: [sat-2, sat-1]") == [
        "orbit.yaml:8: nodes.0: " + reason.format("sat-2 and sat-1", "")
    ]
    links = "nodes: [sat-2, sat-1]\nlinks:\n- between: [sat-1, sat-2]"
    assert problems(tmp_path, file + links) == [
        "orbit.yaml:10: links.0.between: " + reason.format("sat-1 and sat-2", "")
    ]
    assert len(topology(tmp_path, file.replace("satellites: 8", "satellites: 9")).ring) == 9


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "nodes: [sat-0, kiruna]",
            "orbit.yaml:9: nodes.0: found no contact of sat-0 and kiruna within 24 h: the satellite rises to ",
        ),
        (
            "nodes: [sat-0, madrid]\nlinks:\n  - between: [sat-0, madrid]\n    schedule: [{from: 0 s, to: 1 s}]",
            "orbit.yaml:12: links.0.schedule: found windows in which sat-0 and madrid never see each other, allowed "
            "some that meet their contacts: ",
        ),
        (
            "nodes: [sat-0, sat-1]\nlinks:\n  - between: [sat-0, sat-1]\n    reverse:\n      delay: 5 ms",
            "orbit.yaml:13: links.0.reverse.delay: found a delay, allowed none: it follows from the range of sat-0 and "
            "sat-1",
        ),
        (
            "nodes: [sat-0, sat-1]\nlinks:\n  - between: [sat-0, sat-1]\n    schedule:\n    - {at: 5 s, loss: 1 %}\n"
            "    - {at: 9 s, delay: 5 ms}",
            "orbit.yaml:14: links.0.schedule.1.delay: found a delay, allowed none",
        ),
        (
            "nodes: [sat-0, sat-1]\nlinks:\n  - between: [sat-0, sat-1]\n    delay: 5 ms",
            "orbit.yaml:12: links.0.delay: found a delay, allowed none",
        ),
    ],
)
def test_links_that_never_open_and_delays_of_ones_own_are_refused(tmp_path: Path, more: str, expected: str) -> None:
    kiruna = "    - {name: kiruna, latitude: 67.86 deg, longitude: 20.22 deg, elevation: 20 deg}\n"
    (line,) = problems(tmp_path, EXAMPLE + kiruna + more)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epoch=2026-03-20", "constellation.epoch: found '2026-03-20', allowed a date and time in UTC such as "
         "'2026-03-20T00:00:00Z'; did you mean '2026-03-20T00:00:00Z'?"),
        ("epoch=2026-02-30T00:00:00Z", "constellation.epoch: found '2026-02-30T00:00:00Z', allowed a date and time in "
         "UTC such as '2026-03-20T00:00:00Z'"),
        ("epoch=1900-02-20T00:00:00Z",
         "constellation.epoch: found '1900-02-20T00:00:00Z', allowed a year from 1960 to 2049"),
        ("shells.0.altitude=550", "constellation.shells.0.altitude: found 550, allowed a length with its unit, such as "
         "'550 km'"),
        ("shells.0.altitude=55 km", "constellation.shells.0.altitude: found '55 km', allowed 160 km to 5e+04 km"),
        ("shells.0.inclination=53 d", "constellation.shells.0.inclination: found '53 d', allowed an angle such as "
         "'53 deg'; did you mean '53 deg'?"),
        ("stations.0.latitude=91 deg", "constellation.stations.0.latitude: found '91 deg', allowed -90 deg to 90 deg"),
        ("shells.0.phasing=1",
         "constellation.shells.0.phasing: found 1, allowed 0 to 0: less than the number of planes"),
        ("shells.0.spacing=31 deg", "constellation.shells.0.spacing: found 31 deg between each of 12, allowed at most "
         "30 deg"),
        ("shells.0.walker=gamma", "constellation.shells.0.walker: found 'gamma', allowed delta or star"),
        ("stations.0.name=sat-3", "constellation.stations: found two bodies named 'sat-3', allowed satellites and "
         "stations of different names"),
        ("shells.0={name: s, altitude: 600 km, inclination: 0 deg, satellites: 1000, planes: 1000}",
         "constellation.shells: found 1000000 satellites, allowed at most 20000"),
        ("shells=[]", "constellation: found 0 satellites, allowed 1 to 20000, in shells or tles"),
        ("shells.0.satellites=65", "nodes: found nothing, and 65 satellites in the constellation, allowed at most 64 "
         "of them by name (a contact plan needs no nodes)"),
        ("tles=[{text: abc}]", "constellation.tles.0: found a text, elements that end before their second line, "
         "allowed two-line elements"),
    ],
)  # fmt: skip
def test_what_a_constellation_may_not_say(tmp_path: Path, override: str, expected: str) -> None:
    (line,) = problems(tmp_path, EXAMPLE, f"constellation.{override}")
    # What concerns several values stands at the list or the section that holds them.
    assert re.sub(r"^(--set .+?|orbit.yaml:\d): (?=constellation|nodes)", "", line) == expected


def test_two_shells_of_one_name_are_refused(tmp_path: Path) -> None:
    shell = "    - {name: sat, altitude: 600 km, inclination: 53 deg, satellites: 3}\n"
    file = EXAMPLE.split("  stations:")[0] + shell
    assert problems(tmp_path, file) == [
        "orbit.yaml:1: constellation.stations: found two bodies named 'sat-0', allowed satellites and stations of "
        "different names"
    ]


def test_an_epoch_must_be_given(tmp_path: Path) -> None:
    assert problems(tmp_path, EXAMPLE.replace("  epoch: 2026-03-20T00:00:00Z\n", "")) == [
        "orbit.yaml:1: constellation.epoch: found nothing, allowed a date and time in UTC such as "
        "'2026-03-20T00:00:00Z' (the date and time at which the run's clock reads zero)"
    ]


def test_a_contact_plan_needs_no_nodes(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(EXAMPLE.replace("satellites: 12", "satellites: 22, planes: 72"))
    name, constellation, pairs = read_constellation(path)
    assert (name, len(constellation.satellites), pairs) == ("many", 1584, None)
    _, _, pairs = read_constellation(path, ["nodes=[sat-0-0, sat-0-1, madrid]"])
    assert pairs == [("sat-0-0", "sat-0-1"), ("sat-0-1", "madrid"), ("madrid", "sat-0-0")]
    with pytest.raises(TopologyError, match=r"many.yaml:2: trainig: found an unknown key"):
        path.write_text(f"\ntrainig: 3\n{EXAMPLE}") and read_constellation(path)


def test_eclipses_by_name() -> None:
    shell = {"name": "sat", "altitude": "550 km", "inclination": "53 deg", "satellites": 2}
    section = Constellation.model_validate({"epoch": "2026-03-20T00:00:00Z", "duration": "3 h", "shells": [shell]})
    dark = eclipses(section)
    assert list(dark) == ["sat-0", "sat-1"]
    for windows in dark.values():
        # At most asin(R / (R + h)) / pi of 95.5 minutes, 35.6 minutes, at a time; two revolutions and a bit.
        assert 2 <= len(windows) <= 3
        assert all(0 < window.end - window.start < 35.7 * 60 for window in windows)


def test_what_changes_by_the_file_still_does() -> None:
    link = LinkSettings(
        source="a",
        target="b",
        rate=10.0,
        delay=9.0,
        schedule=(Window(start=5, end=50),),
        changes=(Change(at=15, rate=20.0, delay=9.0), Change(at=30, rate=30.0, loss=0.1)),
    )
    windows = (Window(start=0, end=20), Window(start=25, end=60))
    made = Passage(windows, ((0.0, 1.0), (10.0, 2.0), (30.0, 3.0))).impose(link)
    assert made.schedule == (Window(start=5, end=20), Window(start=25, end=50))
    states = {at: made.state_at(at) for at in (0, 12, 20, 40)}
    assert {at: (state.rate, state.delay, state.loss) for at, state in states.items()} == {
        0: (10.0, 1.0, 0.0),
        12: (10.0, 2.0, 0.0),
        20: (20.0, 2.0, 0.0),
        40: (30.0, 3.0, 0.1),
    }
    assert [change.at for change in made.changes] == [10, 15, 30]


edges = st.lists(st.integers(0, 100), unique=True, max_size=10).map(sorted)


def _windows(values: list[int]) -> tuple[Window, ...]:
    return tuple(Window(start=a, end=b) for a, b in zip(values[::2], values[1::2], strict=False))


@given(edges, edges)
def test_an_overlap_is_open_while_both_are(first: list[int], second: list[int]) -> None:
    one, other = _windows(first), _windows(second)
    both = overlap(one, other)
    for moment in (i + 0.5 for i in range(100)):
        inside = [any(w.start <= moment < w.end for w in windows) for windows in (one, other, both)]
        assert inside[2] == (inside[0] and inside[1])
    assert both == overlap(other, one)


FULL = {
    "constellation": {
        "epoch": "2019-12-09T18:00:00Z",
        "duration": "20 min",
        "step": "60 s",
        "tolerance": "1 ms",
        "clearance": "80 km",
        "shells": [
            {"name": "sat", "walker": "star", "altitude": "550 km", "inclination": "53 deg", "planes": 2,
             "satellites": 12, "phasing": 1, "raan": "3 deg", "spacing": "10 deg"}
        ],
        "tles": [{"text": ISS}],
        "stations": [
            {"name": "here", "latitude": "1 deg", "longitude": "2 deg", "altitude": "3 m", "elevation": "4 deg"}
        ],
    },
    "ring": ["sat-0-0", "sat-0-1"],
}  # fmt: skip

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["sat", "5 deg", ISS]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "file", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths(data: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*keys, key)
        yield from paths(value, (*keys, key))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(paths(FULL))), values)
def test_one_changed_value_anywhere_is_read_or_refused_at_its_place(
    tmp_path_factory: pytest.TempPathFactory, keys: tuple[Any, ...], value: object
) -> None:
    data = json.loads(json.dumps(FULL))
    holder = data
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        read(path)
    except TopologyError as refusal:
        for problem in refusal.problems:
            assert problem.place.startswith(f"{path}:")
            assert problem.field
            assert "Input should" not in str(problem)


def test_the_full_example_is_read(tmp_path: Path) -> None:
    made = topology(tmp_path, yaml.safe_dump(FULL))
    assert made.constellation is not None
    assert "ISS-ZARYA" in made.constellation.satellites
