"""Satellites by their elements, beside skyfield's own way from elements to elevations."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest
from skyfield.api import EarthSatellite, load, wgs84

from edgesim.orbit.conditions import OverHorizon
from edgesim.orbit.earth import geodetic
from edgesim.orbit.epoch import Epoch
from edgesim.orbit.plan import contact_plan
from edgesim.orbit.sky import Sky
from edgesim.orbit.stations import Stations
from edgesim.orbit.tle import ElementOrbits, ElementsError, parse

ISS = """\
ISS (ZARYA)
1 25544U 98067A   19343.69339541  .00001764  00000-0  38792-4 0  9991
2 25544  51.6439 211.2001 0007417  17.6667  85.6398 15.50103472202482
"""
LINES = ISS.splitlines()
EPOCH = Epoch(datetime(2019, 12, 9, 18, tzinfo=timezone.utc))


@pytest.fixture
def sky() -> Sky:
    station = Stations(*(np.array([value]) for value in (np.radians(47.2), np.radians(-8.7), 321.0, np.radians(10))))
    return Sky(EPOCH, (ElementOrbits(parse(ISS), EPOCH),), station, ("ISS-ZARYA", "place"))


def test_elevations_and_ground_points_are_skyfields(sky: Sky) -> None:
    times = np.linspace(0, 2 * 86400, 97)
    scale = load.timescale(builtin=True)
    moments = scale.utc(2019, 12, 9, 18, 0, times)
    satellite = EarthSatellite(LINES[1], LINES[2], LINES[0], scale)
    below = wgs84.subpoint_of(satellite.at(moments))
    latitude, longitude, _ = geodetic(sky.fixed(times)[:, 0])
    assert np.degrees(latitude) == pytest.approx(below.latitude.degrees, abs=2e-4)
    apart = np.degrees(longitude) - below.longitude.degrees
    assert (apart + 180) % 360 - 180 == pytest.approx(0, abs=2e-4)

    place = wgs84.latlon(47.2, -8.7, 321.0)
    altitude, _, slant = (satellite - place).at(moments).altaz()
    none = np.zeros(len(times), np.intp)
    horizon = OverHorizon(sky, np.array([0]), np.array([0]))
    assert np.degrees(np.arcsin(horizon.sine_at(none, times))) == pytest.approx(altitude.degrees, abs=1e-3)
    assert horizon.range_at(none, times) == pytest.approx(slant.m, abs=50)
    assert horizon.grid(sky.positions(times), times)[0] == pytest.approx(horizon.at(none, times), abs=1e-9)


def test_passes_are_those_that_skyfield_finds(sky: Sky) -> None:
    scale = load.timescale(builtin=True)
    satellite = EarthSatellite(LINES[1], LINES[2], LINES[0], scale)
    place = wgs84.latlon(47.2, -8.7, 321.0)
    begin, end = scale.utc(2019, 12, 9, 18), scale.utc(2019, 12, 11, 18)
    moments, kinds = satellite.find_events(place, begin, end, altitude_degrees=10.0)
    seconds = (moments.tt - begin.tt) * 86400
    plan = contact_plan(sky, [], 80e3, 2 * 86400.0, 10.0)
    assert len(plan.ground.windows) >= 6
    # Where a pass grazes the mask, a thousandth of a degree, 20 m, is a fifth of a second.
    assert plan.ground.windows.start == pytest.approx(seconds[kinds == 0], abs=0.3)
    assert plan.ground.windows.end == pytest.approx(seconds[kinds == 2], abs=0.3)
    highest = [(satellite - place).at(moment).altaz()[0].radians for moment in moments[kinds == 1]]
    assert plan.ground.greatest_elevation == pytest.approx(highest, abs=np.radians(0.02))


def test_names_come_from_the_line_before_or_the_catalogue() -> None:
    assert [one.name for one in parse(ISS)] == ["ISS-ZARYA"]
    assert [one.name for one in parse("\n".join([*LINES[1:], "0 other", *LINES[1:]]))] == ["norad-25544", "other"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINES[0], LINES[1], LINES[2][:-1] + "7"], "line 3: .*checksum"),
        (LINES[:2], "elements that end before their second line"),
        ([LINES[1], LINES[0]], "line 2: no second line of elements of satellite 25544"),
        (["a", "b"], "line 2: no first line of elements after the name 'a'"),
        ([LINES[1], LINES[2][:-1]], "line 2: elements of 69 and 68 characters"),
    ],
)
def test_broken_elements_are_refused_with_their_line(lines: list[str], message: str) -> None:
    with pytest.raises(ElementsError, match=message):
        parse("\n".join(lines))


def test_a_satellite_that_has_decayed_is_no_position() -> None:
    # Drag a thousand times the station's.
    dragging = LINES[1].replace("38792-4", "38792-1")
    digits = sum(int(c) if c.isdigit() else c == "-" for c in dragging[:-1])
    orbits = ElementOrbits(parse("\n".join([f"{dragging[:-1]}{digits % 10}", LINES[2]])), EPOCH)
    late = np.array([60 * 86400.0])
    for ask in (lambda: orbits.positions(late), lambda: orbits.positions_at(np.array([0]), late)):
        with pytest.raises(ElementsError, match="norad-25544 5184000 s after the epoch"):
            ask()


def test_age_of_elements(sky: Sky) -> None:
    orbits = sky.orbits[0]
    assert isinstance(orbits, ElementOrbits)
    # Day 343.69339541 is 9 December, 16:38:29.4.
    assert orbits.ages() == pytest.approx([18 * 3600 - (16 * 3600 + 38 * 60 + 29.36)], abs=0.1)
