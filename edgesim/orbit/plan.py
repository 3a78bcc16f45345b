"""The contact plan: who sees whom and when, how far away, and when satellites are in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesim.orbit.conditions import InShadow, InSight, OverHorizon
from edgesim.orbit.earth import Array
from edgesim.orbit.search import search
from edgesim.orbit.sky import Sky
from edgesim.orbit.statistics import extremes
from edgesim.orbit.windows import Windows

Pair = tuple[int, int]


@dataclass(frozen=True)
class Contacts:
    """Windows of pairs of bodies, by pair and ascending."""

    pairs: tuple[Pair, ...]
    """numbers of the two bodies; the row of a window is the place in this list"""
    windows: Windows
    least_range: Array
    """m, (W,)"""
    greatest_range: Array
    greatest_elevation: Array | None = None
    """rad, (W,); None between satellites"""


@dataclass(frozen=True)
class Plan:
    """Of one constellation, from its epoch on."""

    sky: Sky
    duration: float
    """s"""
    cross: Contacts
    """between satellites"""
    ground: Contacts
    """from satellites to stations"""
    eclipses: Windows
    """row: the satellite's number"""


def contact_plan(sky: Sky, pairs: Sequence[Pair], clearance: float, duration: float, step: float) -> Plan:
    """Contacts of the given pairs of satellites and of every satellite with every station; eclipses of all satellites.

    `clearance`: least height (m) of a line of sight; `step`: s between samples. Raises ElementsError.
    """
    ends = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    count, stations = sky.satellites, len(sky.stations)
    cross = InSight(sky, ends[:, 0], ends[:, 1], clearance)
    station, satellite = np.divmod(np.arange(count * stations), max(count, 1))
    ground = OverHorizon(sky, satellite, station)
    found = search(sky, [cross, ground, InShadow(sky, np.arange(count))], duration, step)
    seen, passes, dark = (one.windows for one in found)
    nearest, farthest = extremes(seen, cross.range_at, step)
    low, far = extremes(passes, ground.range_at, step)
    _, sine = extremes(passes, ground.sine_at, step)
    to_ground = tuple(zip(satellite.tolist(), (count + station).tolist(), strict=True))
    return Plan(
        sky,
        duration,
        Contacts(tuple((int(a), int(b)) for a, b in ends), seen, nearest, farthest),
        Contacts(to_ground, passes, low, far, np.arcsin(np.minimum(sine, 1.0))),
        dark,
    )
