"""Satellites from two-line elements, propagated by SGP4."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sgp4.api import SGP4_ERRORS, Satrec, SatrecArray
from sgp4.io import verify_checksum

from edgesim.orbit.earth import Array, Index
from edgesim.orbit.epoch import DAY, Epoch


class ElementsError(ValueError):
    """Two-line elements that cannot be read, or that describe no orbit at the time asked for."""


@dataclass(frozen=True)
class Elements:
    """One satellite's two lines, and its name: that of the line before them, or its catalogue number."""

    name: str
    first: str
    second: str


def parse(text: str) -> list[Elements]:
    """The satellites of a TLE file: two lines each, or three with a name before them.

    Names keep letters, digits and ".", "_", "-"; what else they hold becomes "-". Raises ElementsError with the line.
    """
    satellites = []
    name = ""
    first: tuple[int, str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.rstrip()
        if not line or line.startswith("#"):
            continue
        if first is not None:
            satellites.append(_checked(name, first[1], line, number))
            name, first = "", None
        elif line.startswith("1 ") and len(line) > 60:
            first = number, line
        elif name:
            raise ElementsError(f"line {number}: no first line of elements after the name {name!r}")
        else:
            name = line.removeprefix("0 ").strip()
    if first is not None or name:
        raise ElementsError("elements that end before their second line")
    return satellites


def _checked(name: str, first: str, second: str, number: int) -> Elements:
    if not second.startswith("2 ") or first[2:7] != second[2:7]:
        raise ElementsError(f"line {number}: no second line of elements of satellite {first[2:7].strip()}")
    if len(first) != 69 or len(second) != 69:
        raise ElementsError(f"line {number}: elements of {len(first)} and {len(second)} characters, not 69 each")
    try:
        verify_checksum(first, second)
        record = Satrec.twoline2rv(first, second)
    except ValueError as error:
        raise ElementsError(f"line {number}: {str(error).splitlines()[0]}") from None
    if record.error:
        raise ElementsError(f"line {number}: {SGP4_ERRORS[record.error]}")
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:64]
    return Elements(plain or f"norad-{first[2:7].strip()}", first, second)


class ElementOrbits:
    """Satellites on the orbits of their elements, as `CircularOrbits`: in the frame of SGP4 (TEME), m.

    D. A. Vallado, P. Crawford, R. Hujsak and T. S. Kelso, Revisiting Spacetrack Report #3, AIAA 2006-6753; constants of
    WGS 72, as elements are made for.
    """

    def __init__(self, elements: Sequence[Elements], epoch: Epoch) -> None:
        self._elements, self._epoch = tuple(elements), epoch
        self.names = tuple(satellite.name for satellite in elements)
        self._records = [Satrec.twoline2rv(satellite.first, satellite.second) for satellite in elements]
        self._array = SatrecArray(self._records)
        self._julian = epoch.julian

    def __len__(self) -> int:
        return len(self._records)

    def only(self, index: Index) -> ElementOrbits:
        """Some of the satellites, by their numbers."""
        return ElementOrbits([self._elements[number] for number in index], self._epoch)

    def ages(self) -> Array:
        """From each satellite's elements to the epoch, s."""
        day, rest = self._julian
        return np.array([(day - one.jdsatepoch + rest - one.jdsatepochF) * DAY for one in self._records])

    def positions(self, times: Array) -> Array:
        """(3, S, T), m. Raises ElementsError where SGP4 has no position, such as after decay."""
        rest = self._julian[1] + times / DAY
        errors, places, _ = self._array.sgp4(np.full(times.shape, self._julian[0]), rest)
        if errors.any():
            satellite, moment = np.argwhere(errors)[0]
            raise self._lost(satellite, float(times[moment]), int(errors[satellite, moment]))
        return np.moveaxis(places, -1, 0) * 1e3

    def positions_at(self, index: Index, times: Array) -> Array:
        """(3, …), m. Raises ElementsError as `positions`."""
        shape = np.broadcast_shapes(index.shape, times.shape)
        which, when = np.broadcast_to(index, shape).ravel(), np.broadcast_to(times, shape).ravel()
        order = np.argsort(which, kind="stable")
        places = np.empty((3, which.size))
        for rows in np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if which.size else ():
            rest = self._julian[1] + when[rows] / DAY
            satellite = int(which[rows[0]])
            errors, found, _ = self._records[satellite].sgp4_array(np.full(rest.shape, self._julian[0]), rest)
            if errors.any():
                bad = int(np.flatnonzero(errors)[0])
                raise self._lost(satellite, float(when[rows[bad]]), int(errors[bad]))
            places[:, rows] = found.T * 1e3
        return places.reshape(3, *shape)

    def _lost(self, satellite: int, time: float, error: int) -> ElementsError:
        return ElementsError(f"{self.names[satellite]} {time:.0f} s after the epoch: {SGP4_ERRORS[error]}")
