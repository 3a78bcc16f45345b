"""A constellation: ground tracks and links on a map, and who is in contact when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from edgesim.figures.style import FAINT, INK, REFERENCE, WIDTH, blank, colours, extent, legend, paper
from edgesim.orbit.circular import period
from edgesim.orbit.earth import MEAN_RADIUS, Array, geodetic
from edgesim.orbit.plan import Contacts, Plan

_MOST_TRACKS = 12
"""Of more satellites only the places at the epoch are drawn, without their names."""

_MOST_ROWS = 24
"""Of more satellites the timeline shows what stations see, not what each satellite does."""

_SHADOW = "#D9D9D9"
_ROW = 0.17
"""inches"""


@paper
def draw_orbit(plan: Plan) -> Figure:
    """Above: places at the epoch, the tracks of one revolution from there, links in sight, and the circles within which
    stations see satellites. Below: contacts over the plan's duration, and eclipses."""
    rows = _rows(plan)
    stations = plan.sky.named(range(plan.sky.satellites, len(plan.sky.names)))
    lanes = _ROW * sum(row.height for row in rows)
    # The map is half as high as the names of the rows leave it room to be wide.
    names = max((extent(row.label, _label_size(rows))[0] for row in rows), default=0.0) / 72
    height = (WIDTH - max(names, 0.5) - 0.3) / 2
    figure = blank(WIDTH, height + lanes + 1.6)
    above, below = figure.subplots(2, 1, height_ratios=(height, lanes))
    station_colour = colours(stations)
    _map(above, plan, station_colour)
    _timeline(below, plan, rows, station_colour)
    handles: list[Any] = [Line2D([], [], ls="", marker="o", ms=4, color=INK, label="satellite at the epoch")]
    if plan.sky.satellites <= _MOST_TRACKS:
        handles.append(Line2D([], [], color=FAINT, lw=0.8, label="its track, one revolution"))
    if plan.cross.pairs:
        handles.append(Line2D([], [], color=_LINK, lw=1.2, label="link between satellites"))
    if stations:
        circle: dict[str, Any] = {"ls": (0, (3, 2)), "lw": 0.8, "color": REFERENCE}
        handles.append(Line2D([], [], label="satellites inside are seen", **circle))
        handles += [Patch(color=station_colour[name], label=name) for name in stations[:_MOST_NAMED]]
    if any(len(row.dark[0]) for row in rows):
        handles.append(Patch(color=_SHADOW, label="satellite in the Earth's shadow"))
    legend(figure, handles, "lower")
    return figure


_LINK = INK
_MOST_NAMED = 12


def _map(axes: Axes, plan: Plan, station_colour: dict[str, Any]) -> None:
    sky = plan.sky
    axes.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.xaxis.set_minor_locator(MultipleLocator(30))
    axes.yaxis.set_major_locator(MultipleLocator(30))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _degrees(x, "W", "E")))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _degrees(y, "S", "N")))
    axes.grid(True, which="both")
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_title(f"at {sky.epoch.utc:%Y-%m-%d %H:%M:%S} UTC", loc="left")
    now = sky.fixed(np.zeros(1))[:, :, 0]
    radius = float(np.median(np.linalg.norm(now, axis=0)))
    few = sky.satellites <= _MOST_TRACKS
    if few:
        times = period(radius) * np.arange(181) / 180
        for track in np.moveaxis(sky.fixed(times), 1, 0):
            _line(axes, track, color=FAINT, lw=0.5)
    for row, (a, b) in enumerate(plan.cross.pairs):
        starts, _ = plan.cross.windows.of(row)
        if len(starts) and starts[0] == 0:
            _line(axes, _chord(now[:, a], now[:, b]), color=_LINK, lw=1.2 if few else 0.4)
    latitude, longitude, _ = (np.degrees(part) for part in geodetic(now))
    axes.plot(longitude, latitude, "o", ms=4 if few else 1.5, color=INK, zorder=4)
    for label in _labels(sky.named(range(sky.satellites)), latitude, longitude) if few else ():
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(-4 if label.inward else 4, 4),
            textcoords="offset points",
            ha="right" if label.inward else "left",
            fontsize=_NAME,
            zorder=6,
            bbox=_BOX,
        )
    for number, name in enumerate(sky.names[sky.satellites :]):
        fixed = sky.stations.fixed[:, number]
        circle = _circle(fixed, _reach(radius, float(sky.stations.mask[number])))
        _line(axes, circle, color=station_colour[name], lw=0.8, ls=(0, (3, 2)))
        place = np.degrees([sky.stations.longitude[number], sky.stations.latitude[number]])
        place[0] = (place[0] + 180) % 360 - 180
        axes.plot(*place, "^", ms=5, color=station_colour[name], mec=INK, mew=0.5, zorder=5)


_NAME = 7.0
"""points"""

_LONGEST_NAME = 14
_DEGREE = 72 * 0.7 * WIDTH / 360
"""of the map at its smallest, points"""


@dataclass(frozen=True)
class _Label:
    """A text beside a satellite."""

    text: str
    x: float
    """longitude of the satellite, degrees"""
    y: float

    @property
    def inward(self) -> bool:
        """Whether it stands on the left, so that it does not leave the map."""
        return self.x > 120

    def meets(self, other: _Label) -> bool:
        """Whether the two texts would touch."""
        _, height = extent(self.text, _NAME)
        (low, high), (least, most) = self._span, other._span
        return low < most and least < high and abs(self.y - other.y) < height / _DEGREE

    @property
    def _span(self) -> tuple[float, float]:
        """Longitudes from which and to which the text goes, its distance from the satellite and some air included."""
        width = (extent(self.text, _NAME)[0] + 8) / _DEGREE
        return (self.x - width, self.x) if self.inward else (self.x, self.x + width)


def _labels(names: Sequence[str], latitude: Array, longitude: Array) -> list[_Label]:
    """One for satellites that follow so closely that their names would lie on one another; none lies on another."""
    short = [name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}" for name in names]
    groups: list[list[int]] = []

    def label(group: Sequence[int]) -> _Label:
        middle = group[len(group) // 2]
        text = short[group[0]] if len(group) == 1 else f"{short[group[0]]} … {short[group[-1]]}"
        return _Label(text, float(longitude[middle]), float(latitude[middle]))

    for number in range(len(names)):
        near = next((group for group in groups if label(group).meets(label([number]))), None)
        if near is None:
            groups.append([number])
        else:
            near.append(number)
    placed: list[_Label] = []
    for one in map(label, groups):
        if not any(one.meets(other) for other in placed):
            placed.append(one)
    return placed


_BOX = {"boxstyle": "round,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.7}


def _degrees(value: float, negative: str, positive: str) -> str:
    return f"{abs(value):.0f}°{negative if value < 0 else positive if value > 0 else ''}"


def _line(axes: Axes, points: Array, **style: Any) -> None:
    """Over the ground below Earth-fixed points (3, n), broken where it leaves the map's side."""
    latitude, longitude, _ = (np.degrees(part) for part in geodetic(points))
    breaks = np.flatnonzero(np.abs(np.diff(longitude)) > 180) + 1
    for part in np.split(np.arange(len(longitude)), breaks):
        x, y = longitude[part], latitude[part]
        # To the very edge on both sides.
        for at, inner, outer in ((0, part[0], part[0] - 1), (len(x), part[-1], part[-1] + 1)):
            if 0 <= outer < len(longitude):
                edge = np.copysign(180.0, longitude[inner])
                beyond = longitude[outer] + 2 * edge
                share = (edge - longitude[inner]) / (beyond - longitude[inner])
                x = np.insert(x, at, edge)
                y = np.insert(y, at, latitude[inner] + share * (latitude[outer] - latitude[inner]))
        axes.plot(x, y, **style)


def _chord(a: Array, b: Array) -> Array:
    share = np.linspace(0, 1, 33)
    return a[:, None] + share * (b - a)[:, None]


def _reach(radius: float, mask: float) -> float:
    """Angle at the Earth's centre between a station and a satellite on its mask, rad."""
    return float(np.arccos(MEAN_RADIUS / radius * np.cos(mask)) - mask)


def _circle(centre: Array, angle: float) -> Array:
    """Points (3, n) on the ground an angle (rad) from a centre (3,)."""
    towards = centre / np.linalg.norm(centre)
    tilted = np.array([towards[2], 0.0, -towards[0]]) if abs(towards[1]) > 0.9 else np.array([0.0, 1.0, 0.0])
    side = np.cross(towards, tilted)
    side /= np.linalg.norm(side)
    ahead = np.cross(towards, side)
    turn = np.linspace(0, 2 * np.pi, 121)
    around = np.outer(side, np.cos(turn)) + np.outer(ahead, np.sin(turn))
    points: Array = MEAN_RADIUS * (np.cos(angle) * towards[:, None] + np.sin(angle) * around)
    return points


@dataclass(frozen=True)
class _Row:
    """One row of the timeline: its lanes, each of one colour."""

    label: str
    lanes: list[tuple[str | None, Array, Array]]
    """station (None: a link), starts, ends"""
    dark: tuple[Array, Array]

    @property
    def height(self) -> float:
        """In rows of one lane."""
        return max(1.0, 0.55 * len(self.lanes))


def _rows(plan: Plan) -> list[_Row]:
    sky, none = plan.sky, (np.empty(0), np.empty(0))
    rows: list[_Row] = []
    always = [row for row in range(len(plan.cross.pairs)) if _permanent(plan.cross, row, plan.duration)]
    seen = set(plan.cross.windows.row.tolist())
    never = [row for row in range(len(plan.cross.pairs)) if row not in seen]
    others = sorted(seen - set(always))
    if always:
        names = " – ".join(sky.named(plan.cross.pairs[always[0]]))
        label = names if len(always) == 1 else f"{len(always)} links in sight all the time"
        rows.append(_Row(label, [(None, *plan.cross.windows.of(always[0]))], none))
    if never:
        rows.append(_Row(f"{len(never)} link{'s' * (len(never) > 1)} never in sight", [], none))
    for row in others[:_MOST_ROWS]:
        rows.append(_Row(" – ".join(sky.named(plan.cross.pairs[row])), [(None, *plan.cross.windows.of(row))], none))
    if len(others) > _MOST_ROWS:
        rows.append(_Row(f"… and {len(others) - _MOST_ROWS} more links", [], none))
    stations = sky.names[sky.satellites :]
    count = sky.satellites
    if count <= _MOST_ROWS:
        for satellite in range(count):
            lanes = [
                (name, *plan.ground.windows.of(station * count + satellite)) for station, name in enumerate(stations)
            ]
            rows.append(_Row(sky.names[satellite], [*lanes], plan.eclipses.of(satellite)))
        return rows
    for station, name in enumerate(stations[:_MOST_ROWS]):
        first, last = np.searchsorted(plan.ground.windows.row, [station * count, (station + 1) * count])
        passes = (name, plan.ground.windows.start[first:last], plan.ground.windows.end[first:last])
        rows.append(_Row(f"{name}: any satellite", [passes], none))
    return rows


def _permanent(contacts: Contacts, row: int, duration: float) -> bool:
    starts, ends = contacts.windows.of(row)
    return len(starts) == 1 and starts[0] == 0 and ends[0] >= duration - 1e-3


def _timeline(axes: Axes, plan: Plan, rows: Sequence[_Row], station_colour: dict[str, Any]) -> None:
    size, symbol = _scale(plan.duration)
    if symbol == "h":
        axes.xaxis.set_major_locator(
            MultipleLocator(1 if plan.duration <= 43200 else 3 if plan.duration <= 108000 else 6)
        )
    middles = []
    top = 0.0
    for row in rows:
        middles.append(top + row.height / 2)
        dark = [(start / size, (end - start) / size) for start, end in zip(*row.dark, strict=True)]
        axes.broken_barh(dark, (top + 0.04, row.height - 0.08), color=_SHADOW, lw=0)
        lane = (row.height - 0.2) / max(1, len(row.lanes))
        for place, (station, starts, ends) in enumerate(row.lanes):
            bars = [(start / size, (end - start) / size) for start, end in zip(starts, ends, strict=True)]
            colour = _LINK if station is None else station_colour[station]
            # A pass of minutes in a day is narrower than a line: its edge keeps it visible.
            thick = 0.5 * lane if station is None else lane
            begin = top + 0.1 + place * lane + (lane - thick) / 2
            axes.broken_barh(bars, (begin, thick), facecolors=colour, edgecolors=colour, lw=0.4)
        top += row.height
    axes.set(xlim=(0, plan.duration / size), ylim=(top, 0))
    axes.set_yticks(middles, [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        label.set_fontsize(_label_size(rows))
    axes.xaxis.grid(True)
    axes.set_xlabel(f"time after the epoch, {symbol}")
    axes.set_title("contacts", loc="left")


def _label_size(rows: Sequence[_Row]) -> float:
    return 8.0 if max((len(row.label) for row in rows), default=0) < 32 else 6.5


def _scale(duration: float) -> tuple[float, str]:
    if duration > 3 * 86400:
        return 86400.0, "d"
    return (3600.0, "h") if duration > 2 * 3600 else (60.0, "min")
