from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from edgesim.orbit import search as searching
from edgesim.orbit.circular import period
from edgesim.orbit.conditions import InSight, OverHorizon
from edgesim.orbit.delay import delays
from edgesim.orbit.earth import LIGHT
from edgesim.orbit.epoch import Epoch
from edgesim.orbit.plan import contact_plan
from edgesim.orbit.search import eclipses, search
from edgesim.orbit.sky import Sky
from edgesim.orbit.stations import Stations
from edgesim.orbit.walker import Walker

EQUINOX = Epoch(datetime(2026, 3, 20, 14, 46, tzinfo=timezone.utc))


def sky(shell: Walker, *places: tuple[float, float, float]) -> Sky:
    """With stations by latitude, longitude and mask, degrees."""
    latitude, longitude, mask = np.radians(np.array(places, dtype=np.float64).reshape(-1, 3)).T
    stations = Stations(latitude, longitude, np.zeros(len(places)), mask)
    orbits = shell.orbits()
    names = tuple(f"sat-{i}" for i in range(len(orbits))) + tuple(f"place-{i}" for i in range(len(places)))
    return Sky(EQUINOX, (orbits,), stations, names)


@pytest.mark.parametrize(("mask", "minutes"), [(10, 7.9), (5, 9.8)])
def test_the_longest_pass_at_550_km(mask: float, minutes: float) -> None:
    # Over a polar orbit's 2 (acos(R cos e / (R + h)) - e) / 360° of 95.5 min, which a turning Earth hardly changes;
    # at 35.26 degrees the ellipsoid has the mean radius.
    above = sky(Walker(550e3, np.pi / 2, 60, 4, star=True), (35.26, 0, mask))
    plan = contact_plan(above, [], 80e3, 2 * 5730.0, 10.0)
    windows = plan.ground.windows
    whole = (windows.start > 0) & (windows.end < plan.duration)
    assert (windows.end - windows.start)[whole].max() / 60 == pytest.approx(minutes, abs=0.06)
    assert plan.ground.greatest_elevation is not None
    highest = int(np.argmax(plan.ground.greatest_elevation))
    assert np.degrees(plan.ground.greatest_elevation[highest]) > 85
    # Overhead h; at the mask the slant range of the law of sines, half of it to the north and half to the south of a
    # vertical that does not quite point away from the Earth's centre.
    assert plan.ground.least_range[highest] / 1e3 == pytest.approx(551, abs=3)
    horizon = OverHorizon(above, np.arange(240), np.zeros(240, np.intp))
    ends = [horizon.range_at(windows.row[[highest]], edge[[highest]])[0] for edge in (windows.start, windows.end)]
    assert np.mean(ends) / 1e3 == pytest.approx({10: 1815, 5: 2205}[int(mask)], abs=3)
    assert max(ends) == pytest.approx(plan.ground.greatest_range[highest])


def test_eclipses_take_0_372_of_an_orbit_that_holds_the_sun() -> None:
    shell = Walker(550e3, np.pi / 2, 1, 3)
    revolutions = 4 * period(shell.radius)
    windows = eclipses(sky(shell), revolutions)
    assert set(windows.row) == {0, 1, 2}
    assert (windows.end - windows.start).sum() / (3 * revolutions) == pytest.approx(0.372, abs=1e-3)


def test_the_sun_over_the_plane_leaves_no_shadow() -> None:
    assert len(eclipses(sky(Walker(800e3, np.pi / 2, 1, 3, ascension=np.pi / 2)), 86400.0)) == 0


def test_windows_do_not_depend_on_the_step_nor_on_what_is_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    above = sky(Walker(780e3, np.radians(86.4), 6, 4, 2, star=True), (67.86, 20.22, 10), (-35.4, 148.98, 5))
    satellite = np.arange(24)
    conditions = [InSight(above, satellite, (satellite + 9) % 24, 80e3), OverHorizon(above, satellite, satellite % 2)]
    fine = search(above, conditions, 43200.0, 10.0)
    coarse = search(above, conditions, 43200.0, 60.0)
    monkeypatch.setattr(searching, "AT_ONCE", 200)
    parts = search(above, conditions, 43200.0, 60.0)
    for one, other, third in zip(fine, coarse, parts, strict=True):
        assert len(one.windows) > 24
        assert np.array_equal(one.windows.row, other.windows.row)
        assert one.windows.start == pytest.approx(other.windows.start, abs=2e-3)
        assert one.windows.end == pytest.approx(other.windows.end, abs=2e-3)
        for name in ("row", "start", "end"):
            assert np.array_equal(getattr(other.windows, name), getattr(third.windows, name))


def test_at_a_windows_ends_the_satellite_stands_on_the_mask() -> None:
    above = sky(Walker(550e3, np.radians(53), 1, 4), (40.43, -4.25, 10))
    horizon = OverHorizon(above, np.arange(4), np.zeros(4, np.intp))
    windows = search(above, [horizon], 86400.0, 30.0)[0].windows
    inner = (windows.start > 0) & (windows.end < 86400)
    for edge in (windows.start, windows.end):
        elevation = np.degrees(np.arcsin(horizon.sine_at(windows.row[inner], edge[inner])))
        assert elevation == pytest.approx(10, abs=1e-3)


def test_delays_follow_the_range_within_tolerance_and_step() -> None:
    above = sky(Walker(550e3, np.radians(53), 1, 1), (40.43, -4.25, 10))
    horizon = OverHorizon(above, np.zeros(1, np.intp), np.zeros(1, np.intp))
    start, end = search(above, [horizon], 86400.0, 10.0)[0].windows.of(0)
    steps = delays(0, start, end, horizon.range_at, 10.0, 1e-4)
    moments, values = np.array(steps).T
    assert moments[0] == start[0]
    assert (np.diff(moments) > 0).all()
    assert all(((start <= moment) & (moment < end)).any() for moment in moments)
    time = np.concatenate([np.linspace(a, b, 200) for a, b in zip(start, end, strict=True)])
    exact = horizon.range_at(np.zeros(len(time), np.intp), time) / LIGHT
    in_force = values[np.maximum(np.searchsorted(moments, time, "right") - 1, 0)]
    # A satellite in a low orbit comes no faster than 7.6 km/s: 0.253 ms in 10 s.
    assert np.abs(exact - in_force).max() < 1e-4 + 10 * 7.6e3 / LIGHT
    assert 20 < len(steps) < 600


def test_the_delay_of_a_constant_range_never_changes() -> None:
    above = sky(Walker(550e3, np.radians(53), 1, 12))
    sight = InSight(above, np.array([0]), np.array([1]), 80e3)
    steps = delays(0, np.array([0.0]), np.array([86400.0]), sight.range_at, 10.0, 1e-6)
    # 2 · 6921 km · sin(15°) / c
    assert steps == [(0.0, pytest.approx(11.9502e-3, abs=1e-7))]
    assert delays(0, np.empty(0), np.empty(0), sight.range_at, 10.0, 1e-6) == []
