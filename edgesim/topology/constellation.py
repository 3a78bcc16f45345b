"""The section `constellation` of a topology file: satellites by shells and by elements, ground stations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from edgesim.topology.fields import (
    Clearance,
    GroundHeight,
    Height,
    Horizon,
    Inclination,
    Latitude,
    Longitude,
    Mask,
    Moment,
    Name,
    Spacing,
    Step,
    Tolerance,
    Turn,
)
from edgesim.topology.problems import Refusal, shown
from edgesim.topology.quantities import format_angle, format_time
from edgesim.topology.section import Section

# edgesim.orbit brings numpy and skyfield along: only files with a constellation wait for them.
if TYPE_CHECKING:
    from edgesim.orbit.sky import Sky
    from edgesim.orbit.tle import Elements
    from edgesim.orbit.walker import Walker

MOST_SATELLITES = 20_000
LARGEST_ELEMENTS = 4 * 10**6
"""bytes of a file of elements"""

MOST_STEPS = 10**6

MOST_DAYS = 30
"""from elements to the epoch: the error of SGP4 grows by kilometres a day"""

Count = Annotated[int, Field(ge=1, le=1000, strict=True)]


class Shell(Section):
    """A Walker constellation of circular orbits, all of one altitude and inclination."""

    name: Name = Field(description="satellites are named NAME-SLOT, and NAME-PLANE-SLOT where there are several planes")
    walker: Literal["delta", "star"] = Field(
        default="delta", description="planes over the whole circle of ascending nodes (delta), or over half (star)"
    )
    altitude: Height = Field(description="above the mean radius of 6371 km, m")
    inclination: Inclination = Field(description="of the orbits to the equator, rad")
    planes: Count = Field(default=1, description="orbital planes, evenly spread")
    satellites: Count = Field(description="of each plane")
    phasing: Annotated[int, Field(ge=0, strict=True)] = Field(
        default=0, description="Walker's F: each plane is F * 360 deg / (all satellites) ahead of the one before"
    )
    spacing: Spacing | None = Field(
        default=None,
        json_schema_extra={"default": "360 deg / satellites"},
        description="angle between neighbours of a plane that fly as a string, rad",
    )
    raan: Turn = Field(
        default=0.0,
        json_schema_extra={"default": "0 deg"},
        description="right ascension of the first plane's ascending node at the epoch, rad",
    )

    @field_validator("phasing")
    @classmethod
    def _below_planes(cls, phasing: int, info: ValidationInfo) -> int:
        planes = info.data.get("planes")
        if planes is not None and phasing >= planes:
            raise Refusal(shown(phasing), f"0 to {planes - 1}: less than the number of planes")
        return phasing

    @field_validator("spacing")
    @classmethod
    def _within_circle(cls, spacing: float | None, info: ValidationInfo) -> float | None:
        satellites = info.data.get("satellites")
        if spacing is not None and satellites is not None and spacing * satellites > 2 * math.pi * (1 + 1e-12):
            raise Refusal(
                f"{format_angle(spacing)} between each of {satellites}",
                f"at most {format_angle(2 * math.pi / satellites)}",
            )
        return spacing

    @property
    def names(self) -> list[str]:
        """By the satellites' numbers in the shell."""
        slots = range(self.satellites)
        if self.planes == 1:
            return [f"{self.name}-{slot}" for slot in slots]
        return [f"{self.name}-{plane}-{slot}" for plane in range(self.planes) for slot in slots]

    @property
    def geometry(self) -> Walker:
        from edgesim.orbit.walker import Walker

        return Walker(
            altitude=self.altitude,
            inclination=self.inclination,
            planes=self.planes,
            satellites=self.satellites,
            phasing=self.phasing,
            star=self.walker == "star",
            ascension=self.raan,
            spacing=self.spacing,
        )


class ElementSet(Section):
    """Satellites by their two-line elements."""

    file: str | None = Field(
        default=None, min_length=1, strict=True, description="of elements; relative to the topology file's folder"
    )
    text: str | None = Field(default=None, strict=True, description="the elements themselves, instead of a file")

    @model_validator(mode="before")
    @classmethod
    def _with_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict) or value.get("text") is not None or not isinstance(value.get("file"), str):
            return value
        folder = (info.context or {}).get("folder", Path())
        return {**value, "text": _read(Path(folder) / value["file"])}

    @model_validator(mode="after")
    def _of_satellites(self) -> ElementSet:
        if self.text is None:
            raise Refusal("neither a file nor a text", "file: a file of two-line elements")
        if not self.elements:
            raise Refusal("no satellite", "two-line elements of at least one")
        return self

    @cached_property
    def elements(self) -> list[Elements]:
        from edgesim.orbit.tle import ElementsError, parse

        try:
            return parse(self.text or "")
        except ElementsError as error:
            raise Refusal(f"{self.file or 'a text'}, {error}", "two-line elements") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_ELEMENTS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Refusal(f"{path}, which cannot be read ({reason})", "a file of two-line elements") from None
    if len(content) > LARGEST_ELEMENTS:
        raise Refusal(f"{path}, a larger file", f"at most {LARGEST_ELEMENTS // 10**6} MB of two-line elements")
    # Names may be in any encoding; the elements themselves are ASCII.
    return content.decode("utf-8", errors="replace")


class Station(Section):
    """A place on the ground that sees satellites above a least elevation."""

    name: Name = Field(description="the station's name")
    latitude: Latitude = Field(description="geodetic, north positive, rad")
    longitude: Longitude = Field(description="east positive, rad")
    altitude: GroundHeight = Field(
        default=0.0, json_schema_extra={"default": "0 m"}, description="above the ellipsoid of WGS 84, m"
    )
    elevation: Mask = Field(
        default=math.radians(10),
        json_schema_extra={"default": "10 deg"},
        description="least elevation at which it works, rad",
    )


class Constellation(Section):
    """Satellites and ground stations over time. Links between two of them, one a satellite at least, have the delay of
    their range, and contact while they see each other."""

    epoch: Moment = Field(description="the date and time at which the run's clock reads zero")
    duration: Horizon = Field(
        default=86400.0,
        json_schema_extra={"default": "1 d"},
        description="of the contact plan, s; no link has contact after it",
    )
    step: Step = Field(
        default=10.0, json_schema_extra={"default": "10 s"}, description="between samples of ranges and delays, s"
    )
    tolerance: Tolerance = Field(
        default=1e-4,
        json_schema_extra={"default": "0.1 ms"},
        description="a delay is changed once a sample differs by more from it, s",
    )
    clearance: Clearance = Field(
        default=80e3,
        json_schema_extra={"default": "80 km"},
        description="least height of a line of sight between satellites above the mean radius: the atmosphere, m",
    )
    shells: tuple[Shell, ...] = Field(default=(), max_length=64, description="Walker constellations")
    tles: tuple[ElementSet, ...] = Field(default=(), max_length=64, description="satellites from two-line elements")
    stations: tuple[Station, ...] = Field(
        default=(), validate_default=True, max_length=1000, description="ground stations"
    )

    @field_validator("shells")
    @classmethod
    def _not_too_many(cls, shells: tuple[Shell, ...]) -> tuple[Shell, ...]:
        count = sum(shell.planes * shell.satellites for shell in shells)
        if count > MOST_SATELLITES:
            raise Refusal(f"{count} satellites", f"at most {MOST_SATELLITES}")
        return shells

    @field_validator("stations")
    @classmethod
    def _distinct_names(cls, stations: tuple[Station, ...], info: ValidationInfo) -> tuple[Station, ...]:
        names = [*_satellites(info.data.get("shells", ()), info.data.get("tles", ()))]
        seen: set[str] = set()
        for name in (*names, *(station.name for station in stations)):
            if name in seen:
                raise Refusal(f"two bodies named {shown(name)}", "satellites and stations of different names")
            seen.add(name)
        return stations

    @model_validator(mode="after")
    def _sound(self) -> Constellation:
        count = len(self.satellites)
        if not 1 <= count <= MOST_SATELLITES:
            raise Refusal(f"{count} satellites", f"1 to {MOST_SATELLITES}, in shells or tles")
        from edgesim.orbit.tle import ElementOrbits

        if self.duration / self.step > MOST_STEPS:
            raise Refusal(
                f"{format_time(self.duration)} in steps of {format_time(self.step)}", f"at most {MOST_STEPS} steps"
            )
        for orbits in self.sky.orbits:
            if not isinstance(orbits, ElementOrbits):
                continue
            worst = float(max(orbits.ages(), key=abs)) / 86400
            if abs(worst) > MOST_DAYS:
                raise Refusal(
                    f"elements made {abs(worst):.0f} days {'before' if worst > 0 else 'after'} the epoch",
                    f"at most {MOST_DAYS} days",
                )
        return self

    @cached_property
    def satellites(self) -> tuple[str, ...]:
        """Names, by number."""
        return tuple(_satellites(self.shells, self.tles))

    @cached_property
    def bodies(self) -> frozenset[str]:
        """Names of satellites and stations."""
        return frozenset((*self.satellites, *(station.name for station in self.stations)))

    @cached_property
    def sky(self) -> Sky:
        """What computes positions; imports numpy, skyfield and sgp4."""
        import numpy as np

        from edgesim.orbit.epoch import Epoch
        from edgesim.orbit.sky import Orbits, Sky
        from edgesim.orbit.stations import Stations
        from edgesim.orbit.tle import ElementOrbits

        epoch = Epoch(self.epoch)
        orbits: list[Orbits] = [shell.geometry.orbits() for shell in self.shells]
        orbits += [ElementOrbits(group.elements, epoch) for group in self.tles]
        stations = Stations(
            *(
                np.array([getattr(station, key) for station in self.stations], dtype=np.float64)
                for key in ("latitude", "longitude", "altitude", "elevation")
            )
        )
        return Sky(epoch, tuple(orbits), stations, (*self.satellites, *(station.name for station in self.stations)))

    def grid(self) -> list[tuple[int, int]]:
        """The "+grid" links of each shell, by the satellites' numbers."""
        pairs = []
        first = 0
        for shell in self.shells:
            pairs += [(first + a, first + b) for a, b in shell.geometry.grid()]
            first += shell.planes * shell.satellites
        return pairs

    def plane_of(self, name: str) -> tuple[int, int, int] | None:
        """Shell, plane and slot of a satellite; None for other bodies."""
        number = self.sky.number(name)
        for place, shell in enumerate(self.shells):
            if number < shell.planes * shell.satellites:
                return (place, *divmod(number, shell.satellites))
            number -= shell.planes * shell.satellites
        return None


def _satellites(shells: Sequence[Shell], tles: Sequence[ElementSet]) -> Iterator[str]:
    for shell in shells:
        yield from shell.names
    for group in tles:
        yield from (satellite.name for satellite in group.elements)


def with_nodes(data: dict[str, Any], context: Any, most: int) -> tuple[dict[str, Any], list[Refusal]]:
    """The data of a file with its nodes spelled out where only its constellation tells them: those of the ring, or
    else all satellites. A constellation of more than `most` is refused; what it says wrong, its field tells."""
    if data.get("nodes") is not None or data.get("constellation") is None:
        return data, []
    ring = data.get("ring")
    if isinstance(ring, list) and ring:
        names = list(dict.fromkeys(name for name in ring if isinstance(name, str)))
    else:
        try:
            names = list(Constellation.model_validate(data["constellation"], context=context).satellites)
        except ValidationError:
            return data, []
    if len(names) > most:
        found = f"nothing, and {len(names)} satellites in the constellation"
        return data, [Refusal(found, f"at most {most} of them by name (a contact plan needs no nodes)")]
    return {**data, "nodes": names}, []
