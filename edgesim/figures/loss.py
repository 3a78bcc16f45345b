"""How the training loss fell."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from edgesim.figures import series
from edgesim.figures.style import INK, WIDTH, NotDrawable, blank, colours, legend, paper, plain_log_ticks, unit
from edgesim.results import Run


@paper
def loss(run: Run) -> Figure:
    """Training loss against steps and against time: of each node, and the moving median of their mean."""
    numbers, times, mean = mean_loss(run)
    nodes = run.nodes
    colour = colours(nodes)
    figure = blank(WIDTH, 2.9)
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    clock, second = unit("clock", float(times[-1]))
    for node in nodes:
        rows = run.of_node(node)
        for axes, x in ((by_step, rows["step"]), (by_time, rows["time_s"] / clock)):
            axes.plot(x, rows["loss"], color=colour[node], lw=0.7, alpha=0.55, marker=mark(len(x)), ms=3)
    smoothed = series.smooth(mean)
    for axes, x in ((by_step, numbers), (by_time, times / clock)):
        axes.plot(x, smoothed, color=INK, lw=1.5, marker=mark(len(x)), ms=3)
        axes.grid(True)
        axes.margins(x=0.02)
    scale(by_step, smoothed)
    by_step.set_xlabel("Step")
    by_step.set_xlim(left=0)
    by_time.set_xlim(left=0)
    by_step.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_step.set_ylabel("Training loss")
    by_time.set_xlabel(f"Time ({second})")
    handles = [Line2D([], [], color=colour[node], lw=1.5, label=node) for node in nodes]
    label = "mean, moving median" if len(nodes) > 1 else "moving median"
    handles.append(Line2D([], [], color=INK, lw=1.5, label=label))
    legend(figure, handles)
    return figure


def mean_loss(run: Run) -> tuple[series.Floats, series.Floats, series.Floats]:
    """Steps, their times (s) and mean losses, where these are finite.

    Raises:
        NotDrawable: there are none.
    """
    numbers, times, mean = series.mean_over_nodes(run.steps, "loss")
    finite = np.isfinite(mean)
    if not finite.any():
        raise NotDrawable(f"{run.name}: no step with a finite loss was recorded")
    return numbers[finite], times[finite], mean[finite]


def mark(points: int) -> str:
    """A line of very few points is drawn with markers: one point alone has no line."""
    return "o" if points < 10 else ""


def scale(axes: Axes, *curves: series.Floats) -> None:
    """Logarithmic where the losses span more than a decade."""
    low = min(float(curve.min()) for curve in curves)
    high = max(float(curve.max()) for curve in curves)
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis, low, high)
