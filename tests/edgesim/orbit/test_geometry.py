"""Figures that a hand calculation confirms; R = 6371 km, c = 299792.458 km/s."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesim.orbit.circular import CircularOrbits, period
from edgesim.orbit.earth import LIGHT, MEAN_RADIUS, Array, geodetic
from edgesim.orbit.epoch import Epoch
from edgesim.orbit.shadow import depth
from edgesim.orbit.sight import distance, line_height, sine_of_elevation
from edgesim.orbit.sun import direction
from edgesim.orbit.walker import Walker, chord_height, fewest_satellites, widest_angle

UP = np.array([0.0, 0.0, 1.0])
GROUND = MEAN_RADIUS * UP
NOW = np.zeros(1)


def at_angle(altitude: float, angle: float) -> Array:
    """A point so high (m), an angle (rad) at the Earth's centre from the ground point."""
    return (MEAN_RADIUS + altitude) * np.array([np.sin(angle), 0.0, np.cos(angle)])


def test_a_satellite_overhead_at_550_km_is_1_83_ms_away() -> None:
    assert distance(GROUND, at_angle(550e3, 0.0)) / LIGHT == pytest.approx(1.8346e-3, abs=1e-7)


@pytest.mark.parametrize(
    ("elevation", "kilometres", "milliseconds"), [(30, 993, 3.31), (10, 1815, 6.05), (5, 2205, 7.35)]
)
def test_slant_ranges_at_550_km(elevation: float, kilometres: float, milliseconds: float) -> None:
    # Law of sines: sin(90° + e) / (R + h) = sin(nadir angle) / R; the angle at the centre is 90° - e - nadir angle.
    e = np.radians(elevation)
    satellite = at_angle(550e3, np.pi / 2 - e - np.arcsin(MEAN_RADIUS * np.cos(e) / (MEAN_RADIUS + 550e3)))
    assert sine_of_elevation(GROUND, UP, satellite) == pytest.approx(np.sin(e))
    slant = float(distance(GROUND, satellite))
    assert slant / 1e3 == pytest.approx(kilometres, abs=0.5)
    assert slant / LIGHT * 1e3 == pytest.approx(milliseconds, abs=0.005)


@pytest.mark.parametrize(("altitude", "minutes"), [(500e3, 94.5), (550e3, 95.5), (1200e3, 109.3)])
def test_periods(altitude: float, minutes: float) -> None:
    # 2 pi sqrt(a³ / GM), GM = 398600.44 km³/s²
    assert period(MEAN_RADIUS + altitude) / 60 == pytest.approx(minutes, abs=0.06)


def test_neighbours_of_22_in_a_plane_at_550_km_are_1970_km_apart() -> None:
    # 2 · 6921 km · sin(180° / 22)
    places = Walker(550e3, np.radians(53), 1, 22).orbits().positions(np.array([0.0, 1234.5]))
    for moment in range(2):
        apart = distance(places[:, 3, moment], places[:, 4, moment])
        assert apart / 1e3 == pytest.approx(1970, abs=0.5)


@pytest.mark.parametrize(("satellites", "kilometres"), [(8, -23), (12, 266)])
def test_lines_between_neighbours_at_500_km(satellites: int, kilometres: float) -> None:
    # 6871 km · cos(180° / n) - 6371 km
    radius = MEAN_RADIUS + 500e3
    assert chord_height(radius, 2 * np.pi / satellites) / 1e3 == pytest.approx(kilometres, abs=0.5)
    places = Walker(500e3, 1.0, 1, satellites).orbits().positions(NOW)[:, :, 0]
    assert line_height(places[:, 0], places[:, 1]) / 1e3 == pytest.approx(kilometres, abs=0.5)


def test_the_fewest_satellites_of_a_plane_that_see_each_other() -> None:
    # acos(6451 / 6871) = 20.14° is half the angle: 180 / 20.14 = 8.94.
    radius = MEAN_RADIUS + 500e3
    assert fewest_satellites(radius, 80e3) == 9
    assert np.degrees(widest_angle(radius, 80e3) or 0) == pytest.approx(40.27, abs=0.01)
    assert chord_height(radius, 2 * np.pi / 9) > 80e3 > chord_height(radius, 2 * np.pi / 8)
    assert fewest_satellites(radius, 500e3) is None


def test_a_line_that_points_away_from_the_earth_is_lowest_at_its_lower_end() -> None:
    assert line_height(at_angle(500e3, 0.0), at_angle(900e3, 0.0)) == pytest.approx(500e3)


@pytest.mark.parametrize(("altitude", "share"), [(500e3, 0.378), (550e3, 0.372)])
def test_the_share_of_an_orbit_in_shadow_with_the_sun_in_its_plane(altitude: float, share: float) -> None:
    # asin(R / (R + h)) / pi
    angles = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    places = (MEAN_RADIUS + altitude) * np.stack([np.cos(angles), np.sin(angles), 0 * angles])
    sun = np.array([1.0, 0.0, 0.0])[:, None]
    assert np.mean(depth(places, sun) > 0) == pytest.approx(share, abs=5e-4)


def test_a_walker_delta_of_1584() -> None:
    orbits = Walker(550e3, np.radians(53), 72, 22, 17).orbits()
    assert len(orbits) == 1584
    node, latitude = np.degrees(orbits.ascension).reshape(72, 22), np.degrees(orbits.latitude).reshape(72, 22)
    assert np.diff(node[:, 0]) == pytest.approx(360 / 72)
    assert np.ptp(node, axis=1) == pytest.approx(0)
    assert np.diff(latitude[0]) == pytest.approx(360 / 22)
    assert np.diff(latitude[:, 0]) == pytest.approx(360 * 17 / 1584)
    places = orbits.positions(NOW)[:, :, 0]
    assert len(np.unique(np.round(places, -2), axis=1).T) == 1584
    assert np.linalg.norm(places, axis=0) == pytest.approx(6921e3)


def test_the_planes_of_a_star_ascend_on_one_side() -> None:
    orbits = Walker(780e3, np.radians(86.4), 6, 11, 2, star=True).orbits()
    assert np.degrees(orbits.ascension[::11]) == pytest.approx([0, 30, 60, 90, 120, 150])


def test_the_grid_links_every_satellite_of_a_delta_with_four_alike() -> None:
    shell = Walker(550e3, np.radians(53), 6, 8, 5)
    pairs = shell.grid()
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == 2 * 48
    assert np.bincount(np.ravel(pairs)).tolist() == [4] * 48
    orbits = shell.orbits()
    # Neighbours in the next plane lead by the same phase everywhere, the seam included.
    lead = [(orbits.latitude[b] - orbits.latitude[a]) % (2 * np.pi) for a, b in pairs if a // 8 != b // 8]
    assert lead == pytest.approx([2 * np.pi * 5 / 48] * 48)


def test_a_string_and_a_star_have_no_links_around_their_ends() -> None:
    assert Walker(550e3, 1.0, 1, 4, spacing=0.2).grid() == [(0, 1), (1, 2), (2, 3)]
    star = Walker(780e3, 1.5, 3, 4, star=True).grid()
    assert not any({a // 4, b // 4} == {0, 2} for a, b in star)


def test_an_orbit_at_97_6_degrees_follows_the_sun() -> None:
    # Sun-synchronous at 550 km: the node turns by 360 degrees a tropical year, 0.9856 degrees a day.
    orbits = CircularOrbits(*(np.array([value]) for value in (6921e3, np.radians(97.58), 0.0, 0.0)))
    days = 10
    places = orbits.positions(np.array([0.0, days * 86400.0, days * 86400.0 + 60]))[:, 0]
    normal = np.cross(places[:, 1], places[:, 2])
    node = np.degrees(np.arctan2(normal[0], -normal[1]))
    assert node / days == pytest.approx(0.9856, rel=0.005)


@pytest.mark.parametrize(
    ("moment", "declination", "ascension"),
    [
        # Equinoxes and solstices of 2026 (Astronomical Almanac), to the minute.
        (datetime(2026, 3, 20, 14, 46, tzinfo=timezone.utc), 0.0, 0.0),
        (datetime(2026, 6, 21, 8, 24, tzinfo=timezone.utc), 23.44, 90.0),
        (datetime(2026, 9, 23, 0, 5, tzinfo=timezone.utc), 0.0, 180.0),
        (datetime(2026, 12, 21, 20, 50, tzinfo=timezone.utc), -23.44, -90.0),
    ],
)
def test_the_sun_at_the_seasons(moment: datetime, declination: float, ascension: float) -> None:
    x, y, z = direction(NOW, Epoch(moment))[:, 0]
    assert np.degrees(np.arcsin(z)) == pytest.approx(declination, abs=0.02)
    assert abs((np.degrees(np.arctan2(y, x)) - ascension + 180) % 360 - 180) < 0.02
    assert np.hypot(np.hypot(x, y), z) == pytest.approx(1)


coordinate = st.floats(-5e7, 5e7)
points = st.tuples(coordinate, coordinate, coordinate).map(np.array)


@given(points, points)
def test_range_and_line_of_sight_are_the_same_both_ways(a: Array, b: Array) -> None:
    assert distance(a, b) == distance(b, a)
    assert line_height(a, b) == pytest.approx(line_height(b, a), abs=1.0)
    ends = (np.linalg.norm(a) - MEAN_RADIUS, np.linalg.norm(b) - MEAN_RADIUS)
    assert line_height(a, b) <= min(ends) + 1.0


@given(st.floats(-1.57, 1.57), st.floats(-3.1, 3.1), st.floats(0, 2e6))
def test_geodetic_coordinates_are_those_of_the_point(latitude: float, longitude: float, height: float) -> None:
    from skyfield.api import wgs84

    place = wgs84.latlon(np.degrees(latitude), np.degrees(longitude), height)
    found = geodetic(np.asarray(place.itrs_xyz.m))
    assert found[:2] == pytest.approx([latitude, longitude], abs=1e-8)
    assert found[2] == pytest.approx(height, abs=0.01)
