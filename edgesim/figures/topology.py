"""The nodes and the links between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from edgesim.figures.style import FAINT, INK, REFERENCE, NotDrawable, blank, colours, paper, quantity, unit
from edgesim.results import Run, ring_links
from node_agent.job import LinkSettings

Point = NDArray[Any]

_BEND = -0.16
"""of an arrow, to the left of its direction, so that the two directions of a link lie apart"""

_LABELLED = 8
"""Rings of more nodes whose links are all alike say so once."""


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
    colour = colours(ring)
    margin = np.array([0.6, 0.4])
    low = np.min(list(places.values()), axis=0) - margin
    high = np.max(list(places.values()), axis=0) + margin
    # Inches for a unit of the drawing: the more nodes on the circle, the larger it must be.
    inches = 1.7 + 0.09 * len(places)
    figure = blank(*(inches * (high - low)))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    used = set(ring_links(ring))
    alike = len({(link.rate, link.delay, link.jitter, link.loss, link.schedule) for link in links}) == 1
    by_name = {(link.source, link.target): link for link in links}
    small = len(places) > _LABELLED
    for (source, target), link in by_name.items():
        of_ring = (source, target) in used
        middle, outward = _arrow(axes, places[source], places[target], colour[source] if of_ring else FAINT)
        back = by_name.get((target, source))
        said = back is not None and _label(back) == _label(link) and (target, source) in used and not of_ring
        if not (said or (alike and small)):
            _write(axes, middle, outward, _label(link), INK if of_ring else REFERENCE, 6.5 if small else 7.5)
    if alike and small:
        axes.text(0, 0, f"every link\n{_label(links[0])}", ha="center", va="center")
    if any(link not in used for link in by_name):
        handles = [
            Line2D([], [], color=INK, lw=1.4, label="link of the ring, in its sender's colour"),
            Line2D([], [], color=FAINT, lw=1.4, label="other link; without a label: as its opposite"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    for name, place in places.items():
        rank = ring.index(name) if name in ring else None
        axes.plot(*place, "o", ms=17, mfc=colour[name] if rank is not None else "white", mec=INK, mew=0.8)
        if rank is not None:
            ink = "white" if sum(to_rgb(colour[name])) < 1.9 else INK
            axes.annotate(str(rank), (float(place[0]), float(place[1])), ha="center", va="center", color=ink)
        away = place / np.linalg.norm(place) if len(places) > 2 else np.array([0.0, 1.0])
        if small and rank is not None:
            # The outside is full of the links' labels.
            away = -away
        _write(axes, place + 0.1 * away, away, name, INK, 8.5, weight="bold")
    return figure


def _places(ring: Sequence[str], links: Sequence[LinkSettings]) -> dict[str, Point]:
    if len(ring) == 1:
        return {ring[0]: np.zeros(2)}
    first = math.pi if len(ring) == 2 else math.pi / 2
    places = {name: _at(1.0, first - 2 * math.pi * i / len(ring)) for i, name in enumerate(ring)}
    ends = [end for link in links for end in (link.source, link.target)]
    others = [name for name in dict.fromkeys(ends) if name not in places]
    for number, name in enumerate(others):
        places[name] = _at(1.8, math.pi / 2 - 2 * math.pi * (number + 0.5) / len(others))
    return places


def _at(radius: float, angle: float) -> Point:
    return radius * np.array([math.cos(angle), math.sin(angle)])


def _arrow(axes: Axes, start: Point, end: Point, colour: Any) -> tuple[Point, Point]:
    """Draw a bent arrow; returns the middle of its arc and the direction in which it bends."""
    arrow = FancyArrowPatch(
        (float(start[0]), float(start[1])),
        (float(end[0]), float(end[1])),
        connectionstyle=f"arc3,rad={_BEND}",
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=11,
        shrinkB=11,
        lw=1.4,
        color=colour,
    )
    axes.add_patch(arrow)
    along = end - start
    bend = _BEND * np.array([along[1], -along[0]])
    # A quadratic Bézier curve passes half-way between its chord and its control point.
    return (start + end) / 2 + bend / 2, bend / np.linalg.norm(bend)


def _write(axes: Axes, place: Point, away: Point, text: str, colour: str, size: float, weight: str = "normal") -> None:
    """Text beside a point, on the side to which `away` points."""
    axes.annotate(
        text,
        (float(place[0]), float(place[1])),
        xytext=(4 * float(away[0]), 4 * float(away[1])),
        textcoords="offset points",
        ha="left" if away[0] > 0.35 else "right" if away[0] < -0.35 else "center",
        va="bottom" if away[1] > 0.35 else "top" if away[1] < -0.35 else "center",
        color=colour,
        fontsize=size,
        fontweight=weight,
        linespacing=1.15,
    )


def _label(link: LinkSettings) -> str:
    rate = quantity("rate", link.rate) if link.rate is not None else "unlimited"
    size, symbol = unit("duration", max(link.delay, link.jitter))
    spread = f" ± {link.jitter / size:.3g}" if link.jitter else ""
    delay = f"{link.delay / size:.4g}{spread} {symbol}" if link.delay or link.jitter else "no delay"
    extra = f"\n{100 * link.loss:.3g} % loss" if link.loss else ""
    if link.schedule is not None:
        extra += f"\n{len(link.schedule)} contact{'s' if len(link.schedule) != 1 else ''}"
    return f"{rate}\n{delay}{extra}"
