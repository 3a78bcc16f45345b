"""A constellation over time: satellites on their orbits, the ground under them, the sun."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from edgesim.orbit import sun
from edgesim.orbit.earth import Array, Index
from edgesim.orbit.epoch import Epoch, turned
from edgesim.orbit.stations import Stations


class Orbits(Protocol):
    """Satellites that are propagated together."""

    def __len__(self) -> int: ...

    def only(self, index: Index) -> Orbits:
        """Some of the satellites, by their numbers, ascending."""

    def positions(self, times: Array) -> Array:
        """Of every satellite at every time (T,), s: (3, S, T), m."""

    def positions_at(self, index: Index, times: Array) -> Array:
        """Of satellites by their number, each at a time of its own (both broadcast): (3, …), m."""


@dataclass(frozen=True)
class Sky:
    """Bodies are numbered: satellites first, in the order of `orbits`, then the ground stations."""

    epoch: Epoch
    orbits: tuple[Orbits, ...]
    stations: Stations
    names: tuple[str, ...]
    """of the bodies, by number"""

    @cached_property
    def satellites(self) -> int:
        """How many satellites there are."""
        return sum(map(len, self.orbits))

    def number(self, name: str) -> int:
        """Raises KeyError where no body has that name."""
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def only(self, names: Iterable[str]) -> Sky:
        """With no other satellites than the named ones, in the order of their numbers; with all stations."""
        wanted = np.array(sorted({self.number(name) for name in names}), dtype=np.intp)
        kept = wanted[wanted < self.satellites]
        orbits = []
        first = 0
        for group in self.orbits:
            here = kept[(kept >= first) & (kept < first + len(group))] - first
            orbits += [group.only(here)] if len(here) else []
            first += len(group)
        return Sky(self.epoch, tuple(orbits), self.stations, (*self.named(kept), *self.names[self.satellites :]))

    def positions(self, times: Array) -> Array:
        """Of all satellites at all times (T,), s: (3, S, T), m, in an inertial frame (TEME for elements)."""
        return np.concatenate([orbits.positions(times) for orbits in self.orbits], axis=1)

    def positions_at(self, index: Index, times: Array) -> Array:
        """Of satellites (N,), each at a time (N,) of its own: (3, N), m."""
        if len(self.orbits) == 1:
            return self.orbits[0].positions_at(index, times)
        places = np.empty((3, len(index)))
        first = 0
        for orbits in self.orbits:
            here = np.flatnonzero((index >= first) & (index < first + len(orbits)))
            places[:, here] = orbits.positions_at(index[here] - first, times[here])
            first += len(orbits)
        return places

    def fixed(self, times: Array) -> Array:
        """As `positions`, but turning with the Earth: what stands over which place."""
        return turned(self.positions(times), -self.epoch.sidereal(times))

    def ground_at(self, index: Index, times: Array) -> tuple[Array, Array]:
        """Places (m) and verticals of stations, numbered from 0, each at a time of its own (both broadcast)."""
        return self.stations.positions_at(index, times, self.epoch)

    def sun(self, times: Array) -> Array:
        """Unit vectors towards the sun: (3, …)."""
        return sun.direction(times, self.epoch)

    def named(self, numbers: Sequence[int] | Index) -> list[str]:
        """The names of bodies by their numbers."""
        return [self.names[number] for number in numbers]
