"""How every figure looks: palette, fonts, panels, axis units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

P = ParamSpec("P")

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#4D4D4D")
"""Told apart under all common colour vision deficiencies (Okabe and Ito, Color Universal Design, 2008); their yellow
is left out because it vanishes on white."""

INK, FAINT, REFERENCE = "#262626", "#B8B8B8", "#4D4D4D"

WIDTH = 7.2
"""of a figure across both columns of a journal page, inches"""

_STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.5,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "text.color": INK,
}

_UNITS = {
    "rate": ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "duration": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "clock": ((3600.0, "h"), (1.0, "s")),
}


class NotDrawable(ValueError):
    """The run does not hold what the figure shows."""


def paper(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this module, without changing matplotlib's settings for anybody else."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            # Ticks are made when the figure is rendered, after the style is gone.
            for axes in figure.axes:
                axes.tick_params(which="both", labelsize=8, width=0.6, color=INK, labelcolor=INK)
            return figure

    return styled


def blank(width: float, height: float) -> Figure:
    """An empty figure, inches, that arranges its axes and legends itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    titles: Sequence[str], height: float, share_y: bool = False, notes: Sequence[str] = ()
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels with a common time axis; `height` is that of one panel, inches. Above each stands its
    title on the left, broken at its last space and smaller where titles would not fit, and its note on the right."""
    count = len(titles)
    columns = count if count <= 2 else 2 if count <= 4 else 3 if count <= 9 else 4
    rows = math.ceil(count / columns)
    width = {1: 0.75, 2: 1.0}.get(columns, 1.25) * WIDTH
    figure = blank(width, height * rows + 0.6)
    grid = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False)
    axes = list(grid.flat)
    for empty in axes[count:]:
        empty.set_axis_off()
    notes = notes or [""] * count
    room = 72 * width / columns - 36 - max(extent(note, 7.5)[0] for note in notes)
    if max(extent(title, 8.5)[0] for title in titles) > room:
        titles = ["\n".join(title.rsplit(" ", 1)) for title in titles]
    shrink = min(1.0, *(room / extent(title, 8.5)[0] for title in titles))
    for index, panel in enumerate(axes[:count]):
        panel.grid(True)
        # The lowest panel of each column carries the axis, also where the last row is not full.
        panel.tick_params(labelbottom=index + columns >= count)
        panel.set_title(titles[index], loc="left", fontsize=8.5 * shrink)
        panel.set_title(notes[index], loc="right", fontsize=7.5, color=REFERENCE)
    return figure, axes[:count]


def legend(figure: Figure, handles: Sequence[Artist], place: str = "upper", title: str | None = None) -> None:
    """Above or below the axes, in as many columns as fit into the width of the figure; many rows make it higher."""
    widths = [40 + extent(str(handle.get_label()), 8)[0] for handle in handles]
    columns = len(handles)
    while columns > 1 and sum(map(max, np.array_split(widths, columns))) > 72 * figure.get_figwidth():
        columns -= 1
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, rows - 2))
    figure.legend(handles=handles, loc=f"outside {place} center", ncols=columns, title=title)


def extent(text: str, size: float) -> tuple[float, float]:
    """Width and height, roughly, of a text in a font of `size` points, points."""
    lines = text.splitlines()
    return 0.57 * size * max(map(len, lines), default=0), 1.2 * size * len(lines)


def unit(kind: str, largest: float) -> tuple[float, str]:
    """The unit in which values up to `largest` (SI) read best: its size in SI, and its symbol."""
    units = _UNITS[kind]
    return next(((size, symbol) for size, symbol in units if largest >= size), units[-1])


def plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Decimal labels on a logarithmic axis, also between powers of ten where there is room."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def quantity(kind: str, value: float) -> str:
    """A value (SI) as people write it: "10 Mbit/s"."""
    size, symbol = unit(kind, value)
    return f"{value / size:.3g} {symbol}"


def colours(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each name: the palette's, or steps of one colour map where there are more names than that; its
    yellow end is left out because it vanishes on white."""
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(names)))
    return dict(zip(names, map(tuple, shades), strict=True))


def ink_on(colour: Any) -> str:
    """White or black, whichever stands out more from `colour` (contrast ratio of WCAG 2)."""
    luminance = float(np.dot(np.power(to_rgb(colour), 2.2), (0.2126, 0.7152, 0.0722)))
    return "white" if luminance < 0.18 else "black"
