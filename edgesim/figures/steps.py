"""Where the time of the steps went."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from edgesim.figures import series
from edgesim.figures.style import WIDTH, NotDrawable, blank, legend, paper, unit
from edgesim.results import PARTS, Run

_MOST = 80
"""bars across the figure"""

PART_COLOURS = {
    "compute": "#0072B2",
    "encode": "#56B4E9",
    "wait": "#DCDCDC",
    "transfer": "#E69F00",
    "decode": "#009E73",
}


@paper
def step_time(run: Run) -> Figure:
    """Compute, encode, wait, transfer and decode: stacked over the steps (mean over nodes), and for each node
    (mean over steps)."""
    if not len(run.steps["step"]):
        raise NotDrawable(f"{run.name}: no step was recorded")
    nodes = run.nodes
    figure = blank(WIDTH, max(2.8, 1.0 + 0.2 * len(nodes)))
    over_steps, of_nodes = figure.subplots(1, 2, width_ratios=(2.2, 1))

    means = {part: series.mean_over_nodes(run.steps, f"{part}_s") for part in PARTS}
    numbers = means["compute"][0]
    starts = series.blocks(len(numbers), _MOST)
    length = np.diff(np.append(starts, len(numbers)))
    heights = {part: series.totals(mean, starts) / length for part, (_, _, mean) in means.items()}
    edges = np.append(numbers[starts], numbers[-1] + 1) - 0.5
    stack = np.zeros(len(starts))
    size, symbol = unit("duration", float(sum(heights.values()).max()))
    for part in PARTS:
        top = stack + heights[part] / size
        over_steps.stairs(top, edges, baseline=stack, fill=True, color=PART_COLOURS[part], label=part, lw=0)
        stack = top
    over_steps.set_xlim(edges[0], edges[-1])
    over_steps.set_xlabel("Step")
    over_steps.set_ylabel(f"Step time ({symbol}), mean over nodes")
    over_steps.set_ylim(0, _ceiling(stack))
    over_steps.grid(True, axis="y")
    if len(numbers) < 10:
        over_steps.set_xticks(numbers)

    left = np.zeros(len(nodes))
    rows = [run.of_node(node) for node in nodes]
    for part in PARTS:
        width = np.array([row[f"{part}_s"].mean() if len(row["step"]) else 0.0 for row in rows]) / size
        of_nodes.barh(nodes, width, left=left, color=PART_COLOURS[part], height=0.7)
        left += width
    of_nodes.set_ylim(len(nodes) - 0.5, -0.5)
    of_nodes.set_xlim(0, 1.05 * left.max())
    of_nodes.set_xlabel(f"Mean over steps ({symbol})")
    of_nodes.grid(True, axis="x")
    legend(figure, over_steps.get_legend_handles_labels()[0])
    return figure


def _ceiling(heights: series.Floats) -> float:
    """Of the axis: a slow first step, which pays for what is set up once, must not flatten the others."""
    usual = float(np.percentile(heights, 98))
    highest = float(heights.max())
    return 1.05 * (highest if highest < 2.5 * usual else 1.5 * usual)
