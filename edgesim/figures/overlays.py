"""Several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgesim.comparison import labels
from edgesim.figures import series
from edgesim.figures.detection import DETECTORS, finish_roc, negatives, roc_of
from edgesim.figures.loss import mark, mean_loss, scale
from edgesim.figures.style import REFERENCE, WIDTH, NotDrawable, blank, colours, paper, plain_log_ticks, unit
from edgesim.results import Run

_LINE_STYLES = ("-", "--", "-.", ":")


@paper
def roc_of_runs(runs: Sequence[Run]) -> Figure:
    """Receiver operating characteristic of each run's trained network, over the scored pixels."""
    drawn = {name: run for name, run in zip(labels(runs), runs, strict=True) if "score" in run.maps}
    if not drawn:
        raise NotDrawable("no run wrote a detection map")
    figure = blank(WIDTH, 3.2)
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    colour = colours(labels(runs))
    for number, (name, run) in enumerate(drawn.items()):
        false_alarms, detections, area = roc_of(run, "score")
        for axes in (linear, logarithmic):
            style = _LINE_STYLES[number % len(_LINE_STYLES)]
            axes.plot(false_alarms, detections, style, color=colour[name], label=f"{name} ({area:.4f})")
    finish_roc(linear, logarithmic, max(negatives(run) for run in drawn.values()))
    figure.legend(
        *linear.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=min(len(drawn), 3),
        title="Area under the curve",
    )
    return figure


@paper
def loss_of_runs(runs: Sequence[Run]) -> Figure:
    """Training loss of each run (moving median of the mean over nodes) against time and against bytes sent."""
    drawn = {name: run for name, run in zip(labels(runs), runs, strict=True) if len(run.steps["step"])}
    if not drawn:
        raise NotDrawable("no run recorded a step")
    curves = {name: mean_loss(run) for name, run in drawn.items()}
    volumes = {name: _bytes_by_step(run, curves[name][0]) for name, run in drawn.items()}
    clock, second = unit("clock", max(float(times[-1]) for _, times, _ in curves.values()))
    size, symbol = unit("bytes", max(float(volume[-1]) for volume in volumes.values()))
    colour = colours(labels(runs))
    figure = blank(WIDTH, 2.9)
    by_time, by_bytes = figure.subplots(1, 2, sharey=True)
    smoothed = {name: series.smooth(mean) for name, (_, _, mean) in curves.items()}
    for name, (_, times, _) in curves.items():
        for axes, x in ((by_time, times / clock), (by_bytes, volumes[name] / size)):
            axes.plot(x, smoothed[name], color=colour[name], label=name, marker=mark(len(x)), ms=3)
    for axes in (by_time, by_bytes):
        axes.grid(True)
    scale(by_time, *smoothed.values())
    by_time.set_ylabel("Training loss")
    by_time.set_xlabel(f"Time ({second})")
    by_bytes.set_xlabel(f"Sent by each node ({symbol})")
    figure.legend(*by_time.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(drawn), 4))
    return figure


@paper
def accuracy_of_runs(runs: Sequence[Run]) -> Figure:
    """Area under the ROC curve that each run ended with against bytes sent and against time; the controls as lines
    where the runs share them. The scale is that of what is missing to 1, so that good detectors stay apart."""
    named = dict(zip(labels(runs), runs, strict=True))
    areas = {name: run.summary.get("metrics", {}).get("auc") for name, run in named.items()}
    missed = {name: 1 - area for name, area in areas.items() if area is not None}
    if not missed:
        raise NotDrawable("no run ended with an area under the curve")
    controls = {name: 1 - area for name, area in _shared_controls([named[name] for name in missed]).items()}
    colour = colours(labels(runs))
    figure = blank(WIDTH, 3.0)
    by_bytes, by_time = figure.subplots(1, 2, sharey=True)
    sent = {name: float(np.mean(list(named[name].summary["bytes_sent"].values()))) for name in missed}
    times = {name: float(named[name].summary["time_s"]) for name in missed}
    for axes, costs, kind, what in (
        (by_bytes, sent, "bytes", "Sent by each node"),
        (by_time, times, "clock", "Training time"),
    ):
        size, symbol = unit(kind, max(costs.values()))
        for name, cost in costs.items():
            axes.plot(cost / size, missed[name], "o", ms=6, color=colour[name], label=name)
        for height in controls.values():
            axes.axhline(height, color=REFERENCE, ls=":", lw=0.9, zorder=0)
        axes.margins(x=0.1, y=0.1)
        axes.set_xlabel(f"{what} ({symbol})")
        axes.grid(True)
        low, high = min(costs.values()) / size, max(costs.values()) / size
        if 0 < 10 * low < high:
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis, low, high)
        else:
            axes.set_xlim(left=0)
    heights = [*missed.values(), *controls.values()]
    if 0 < 3 * min(heights) < max(heights):
        by_bytes.set_yscale("log")
        plain_log_ticks(by_bytes.yaxis, min(heights), max(heights))
    by_bytes.invert_yaxis()
    by_bytes.yaxis.set_major_formatter(lambda height, _: f"{1 - height:.6g}")
    by_bytes.set_ylabel("Area under the ROC curve")
    _write_beside(by_time, controls)
    figure.legend(*by_bytes.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(missed), 4))
    return figure


def _write_beside(axes: Axes, heights: dict[str, float]) -> None:
    """Names of horizontal lines on the right, moved apart where the lines are close."""
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[0]
    places = sorted((float(to_axes.transform((x, height))[1]), name) for name, height in heights.items())
    lowest = -1.0
    for place, name in places:
        lowest = max(place, lowest + 0.06)
        axes.annotate(name, (1.02, lowest), xycoords="axes fraction", va="center", fontsize=7.5)


def _bytes_by_step(run: Run, numbers: series.Floats) -> series.Floats:
    """Bytes that a node had sent after each step, mean over nodes."""
    every, _, sent = series.mean_over_nodes(run.steps, "bytes_sent")
    total: series.Floats = np.cumsum(sent)[np.searchsorted(every, numbers)]
    return total


def _shared_controls(runs: Sequence[Run]) -> dict[str, float]:
    """The classical detectors' areas, where all runs agree on them: they do on one scene with one target prior."""
    controls = {}
    for name in ("rx", "ace", "cem", "brightness"):
        values = {run.summary["metrics"].get(f"auc_{name}") for run in runs}
        if len(values) == 1 and None not in values:
            controls[DETECTORS[name]] = float(values.pop())
    return controls
