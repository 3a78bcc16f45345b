"""The nodes and the links between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from edgesim.figures.style import (
    INK,
    REFERENCE,
    NotDrawable,
    blank,
    colours,
    extent,
    ink_on,
    legend,
    paper,
    quantity,
    unit,
)
from edgesim.results import Run
from edgesim.topology.paths import ring_hops
from node_agent.job import LinkSettings

Point = NDArray[Any]

_BEND = -0.16
"""of an arrow, to the left of its direction, so that the two directions of a link lie apart"""

_CROWDED = 8
"""Drawings of more nodes have their texts along the radii, and say once what all links have in common."""

_GAP = 4.0
"""between a text and what it names, points"""

_OTHER: dict[str, Any] = {"color": "#8C8C8C", "lw": 0.9, "ls": (0, (4, 2))}

_BOX = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
"""behind a text, so that no line crosses it"""


def topology(run: Run) -> Figure:
    """The run's nodes in ring order and its links, with rates and delays."""
    if not run.nodes:
        raise NotDrawable(f"{run.name}: the nodes are not known")
    return draw_topology(run.nodes, list(run.link_settings.values()))


@paper
def draw_topology(ring: Sequence[str], links: Sequence[LinkSettings]) -> Figure:
    """Nodes of the ring on a circle, clockwise from the top, with their ranks; nodes that only links name, outside.
    Links of the ring are coloured by their sender; the others are grey."""
    places = _places(ring, links)
    crowded = len(places) > _CROWDED
    size, dot = (6.5, 13.0) if crowded else (7.5, 17.0)
    by_name = {(link.source, link.target): link for link in links}
    arcs = {(source, target): _Arc(places[source], places[target]) for source, target in by_name}
    labels = {_label(link) for link in links}
    once = crowded and len(labels) == 1
    points = [*places.values(), *(arc.at(0.5) for arc in arcs.values())]
    figure, axes = _canvas(points, [*places] if once else [*places, *labels], size, crowded)
    colour = colours(ring)
    used = {ends for hop in ring_hops(ring, by_name).values() for ends in hop.links}
    for (source, target), arc in arcs.items():
        of_ring = (source, target) in used
        arc.draw(axes, dot, **({"color": colour[source], "lw": 1.4} if of_ring else _OTHER))
        if once or _said_of_opposite(source, target, by_name, used):
            continue
        label = _label(by_name[source, target])
        ink = INK if of_ring else REFERENCE
        if of_ring or (target, source) in used:
            # Inside a small ring there is more room beside the beginnings of the links than beside their middles.
            _beside(axes, arc.at(0.5 if of_ring else 0.42), arc.side, label, size, crowded, color=ink)
        else:
            # Chords cross in the middle.
            share = 0.25 if source in ring and target in ring else 0.5
            _on(axes, arc.at(share), label, bbox=_BOX, fontsize=size, color=ink)
    if once:
        _on(axes, np.zeros(2), f"every link\n{labels.pop()}", bbox=_BOX)
    for name, place in places.items():
        face = colour.get(name, "white")
        axes.plot(*place, "o", ms=dot, mfc=face, mec=INK, mew=0.8, zorder=4)
        if name in ring:
            _on(axes, place, str(ring.index(name)), fontsize=size + 1, color=ink_on(face), zorder=5)
        away = place / np.linalg.norm(place) if len(places) > 2 else np.array([0.0, 1.0])
        _beside(axes, place, away, name, size + 1, crowded, gap=_GAP + dot / 2, fontweight="bold")
    if any(link not in used for link in by_name):
        handles = [
            Line2D([], [], color=INK, lw=1.4, label="link of the ring, in its sender's colour"),
            Line2D([], [], label="other link; without a label: as its opposite", **_OTHER),
        ]
        legend(figure, handles, "lower")
    return figure


@dataclass(frozen=True)
class _Arc:
    """A bent arrow: a quadratic Bézier curve, as matplotlib's connection style arc3 draws it."""

    start: Point
    end: Point

    @property
    def bend(self) -> Point:
        """From the middle of the chord to the control point."""
        along = self.end - self.start
        bend: Point = _BEND * np.array([along[1], -along[0]])
        return bend

    @property
    def side(self) -> Point:
        """The direction in which it bends."""
        side: Point = self.bend / np.linalg.norm(self.bend)
        return side

    def at(self, share: float) -> Point:
        """The point at a share of the curve's parameter."""
        control = (self.start + self.end) / 2 + self.bend
        point: Point = (1 - share) ** 2 * self.start + 2 * share * (1 - share) * control + share**2 * self.end
        return point

    def draw(self, axes: Axes, dot: float, **style: Any) -> None:
        """Between nodes that are `dot` points wide."""
        arrow = FancyArrowPatch(
            (float(self.start[0]), float(self.start[1])),
            (float(self.end[0]), float(self.end[1])),
            connectionstyle=f"arc3,rad={_BEND}",
            arrowstyle="-|>",
            mutation_scale=9,
            shrinkA=dot / 2 + 2,
            shrinkB=dot / 2 + 2,
            **style,
        )
        axes.add_patch(arrow)


def _places(ring: Sequence[str], links: Sequence[LinkSettings]) -> dict[str, Point]:
    if len(ring) == 1:
        return {ring[0]: np.zeros(2)}
    first = math.pi if len(ring) == 2 else math.pi / 2
    places = {name: _at(1.0, first - 2 * math.pi * i / len(ring)) for i, name in enumerate(ring)}
    ends = [end for link in links for end in (link.source, link.target)]
    others = [name for name in dict.fromkeys(ends) if name not in places]
    for number, name in enumerate(others):
        # Not behind a node of the ring: the first between the last two of them.
        places[name] = _at(1.8, first + math.pi / len(ring) - 2 * math.pi * number / len(others))
    return places


def _at(radius: float, angle: float) -> Point:
    return radius * np.array([math.cos(angle), math.sin(angle)])


def _canvas(points: Sequence[Point], texts: Sequence[str], size: float, crowded: bool) -> tuple[Figure, Axes]:
    """A figure with axes without a frame, around the points and the texts of `size` points beside them."""
    # Inches for a unit of the drawing: the more nodes on the circle, the larger it must be.
    inches = 1.5 + 0.02 * len(points) if crowded else 2.3
    beside = 0.3 + max(extent(text, size + 1)[0] for text in texts) / 72
    room = np.array([beside, beside if crowded else 0.5]) / inches
    low, high = np.min(points, axis=0) - room, np.max(points, axis=0) + room
    figure = blank(*(inches * (high - low)))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return figure, axes


def _said_of_opposite(
    source: str, target: str, links: Mapping[tuple[str, str], LinkSettings], used: set[tuple[str, str]]
) -> bool:
    """Whether a link's label would only repeat that of its opposite direction."""
    back = links.get((target, source))
    if (source, target) in used or back is None or _label(back) != _label(links[source, target]):
        return False
    return (target, source) in used or source > target


def _on(axes: Axes, place: Point, text: str, **style: Any) -> None:
    axes.text(float(place[0]), float(place[1]), text, ha="center", va="center", linespacing=1.15, **style)


def _beside(
    axes: Axes, place: Point, away: Point, text: str, size: float, along: bool, gap: float = _GAP, **style: Any
) -> None:
    """Text on the side of a point to which `away` points, `gap` points from it; level, or along that direction."""
    x, y = away.tolist()
    if along:
        left = x > -1e-9
        style |= {"ha": "left" if left else "right", "rotation_mode": "anchor"}
        style["rotation"] = math.degrees(math.atan2(y, x)) - (0 if left else 180)
    else:
        # So far that the whole of the text lies beyond the line through the point that `away` is perpendicular to.
        width, height = extent(text, size)
        gap += (width * abs(x) + height * abs(y)) / 2
        style["ha"] = "center"
    axes.annotate(
        text,
        (float(place[0]), float(place[1])),
        xytext=(gap * x, gap * y),
        textcoords="offset points",
        va="center",
        fontsize=size,
        linespacing=1.15,
        bbox=_BOX,
        **style,
    )


def _label(link: LinkSettings) -> str:
    rate = quantity("rate", link.rate) if link.rate is not None else "unlimited"
    size, symbol = unit("duration", max(link.delay, link.jitter))
    spread = f" ± {link.jitter / size:.3g}" if link.jitter else ""
    delay = f"{link.delay / size:.4g}{spread} {symbol}" if link.delay or link.jitter else "no delay"
    extra = f"\n{100 * link.loss:.3g} % loss{' in bursts' if link.bursts else ''}" if link.loss else ""
    if link.schedule is not None:
        extra += f"\n{len(link.schedule)} contact{'s' if len(link.schedule) != 1 else ''}"
    if link.changes:
        extra += f"\n{len(link.changes)} change{'s' if len(link.changes) != 1 else ''}"
    return f"{rate}\n{delay}{extra}"
