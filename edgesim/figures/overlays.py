"""Several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from edgesim.comparison import labels
from edgesim.figures import series
from edgesim.figures.detection import CONTROLS, DETECTORS, LINE_STYLES, finish_roc, negatives, roc_of
from edgesim.figures.loss import mark, mean_loss, scale
from edgesim.figures.style import (
    FAINT,
    REFERENCE,
    WIDTH,
    NotDrawable,
    blank,
    colours,
    legend,
    paper,
    plain_log_ticks,
    unit,
)
from edgesim.results import Run

_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"


@paper
def roc_of_runs(runs: Sequence[Run]) -> Figure:
    """Receiver operating characteristic of each finished run's trained network, over the scored pixels; the controls
    as thin lines where the runs share them."""
    named = _named(runs)
    drawn = {name: run for name, run in named.items() if _finished(run) and "score" in run.maps}
    if not drawn:
        raise NotDrawable("no finished run wrote a detection map")
    figure = blank(WIDTH, 3.2)
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    looks = _looks(list(named))
    for name, run in drawn.items():
        false_alarms, detections, area = roc_of(run, "score")
        for axes in (linear, logarithmic):
            axes.plot(false_alarms, detections, label=f"{name} ({area:.4f})", **looks[name])
    first = next(iter(drawn.values()))
    for control in _shared_maps(list(drawn.values())):
        false_alarms, detections, area = roc_of(first, control)
        style = {"color": REFERENCE, "ls": LINE_STYLES[control], "lw": 0.7, "zorder": 1}
        for axes in (linear, logarithmic):
            axes.plot(false_alarms, detections, label=f"{DETECTORS[control]} ({area:.4f})", **style)
    finish_roc(linear, logarithmic, max(negatives(run) for run in drawn.values()))
    legend(figure, linear.get_legend_handles_labels()[0], title="Area under the curve")
    return figure


@paper
def loss_of_runs(runs: Sequence[Run]) -> Figure:
    """Training loss of each run (moving median of the mean over nodes) against time and against bytes sent."""
    named = _named(runs)
    drawn = {name: run for name, run in named.items() if len(run.steps["step"])}
    if not drawn:
        raise NotDrawable("no run recorded a step")
    curves = {name: mean_loss(run) for name, run in drawn.items()}
    volumes = {name: _bytes_by_step(run, curves[name][0]) for name, run in drawn.items()}
    clock, second = unit("clock", max(float(times[-1]) for _, times, _ in curves.values()))
    size, symbol = unit("bytes", max(float(volume[-1]) for volume in volumes.values()))
    looks = _looks(list(named))
    figure = blank(WIDTH, 2.9)
    by_time, by_bytes = figure.subplots(1, 2, sharey=True)
    smoothed = {name: series.smooth(mean) for name, (_, _, mean) in curves.items()}
    for name, (_, times, _) in curves.items():
        label = name if _finished(drawn[name]) else f"{name} (unfinished)"
        for axes, x in ((by_time, times / clock), (by_bytes, volumes[name] / size)):
            axes.plot(x, smoothed[name], label=label, marker=mark(len(x)), ms=3, **looks[name])
    for axes in (by_time, by_bytes):
        axes.grid(True)
    scale(by_time, *smoothed.values())
    by_time.set_ylabel("Training loss")
    by_time.set_xlabel(f"Time ({second})")
    by_bytes.set_xlabel(f"Sent by each node ({symbol})")
    legend(figure, by_time.get_legend_handles_labels()[0])
    return figure


@paper
def accuracy_of_runs(runs: Sequence[Run]) -> Figure:
    """Area under the ROC curve that each finished run ended with against bytes sent and against time, and those of the
    controls: as lines, and as the band of their values where the runs do not share them. The scale is that of what is
    missing to 1, so that good detectors stay apart."""
    named = _named(runs)
    areas = {name: run.summary["metrics"].get("auc") for name, run in named.items() if _finished(run)}
    missed = {name: 1 - area for name, area in areas.items() if area is not None}
    if not missed:
        raise NotDrawable("no finished run has an area under the curve")
    drawn = {name: named[name] for name in missed}
    controls = _controls(list(drawn.values()))
    markers = {name: _MARKERS[place % len(_MARKERS)] for place, name in enumerate(named)}
    colour = colours(list(named))
    figure = blank(WIDTH, 3.0)
    by_bytes, by_time = figure.subplots(1, 2, sharey=True)
    sent = {name: float(np.mean(list(run.summary["bytes_sent"].values()))) for name, run in drawn.items()}
    times = {name: float(run.summary["time_s"]) for name, run in drawn.items()}
    for axes, costs, kind, what in (
        (by_bytes, sent, "bytes", "Sent by each node"),
        (by_time, times, "clock", "Training time"),
    ):
        size, symbol = unit(kind, max(costs.values()))
        for name, cost in costs.items():
            # Hollow, of differing shapes and over the edge of the panel: runs that coincide are all seen.
            style = {"marker": markers[name], "ms": 7, "mfc": "none", "mew": 1.6, "clip_on": False}
            axes.plot(cost / size, missed[name], ls="", color=colour[name], label=name, **style)
        for values in controls.values():
            axes.axhspan(min(values), max(values), color=FAINT, alpha=0.3, lw=0, zorder=0)
            axes.axhline(float(np.mean(values)), color=REFERENCE, ls=":", lw=0.9, zorder=0)
        axes.set_xlabel(f"{what} ({symbol})")
        axes.grid(True)
        _cost_axis(axes, min(costs.values()) / size, max(costs.values()) / size)
    heights = [*missed.values(), *(value for values in controls.values() for value in values)]
    _area_axis(by_bytes, min(heights), max(heights))
    _write_beside(by_time, {name: float(np.mean(values)) for name, values in controls.items()})
    handles: list[Artist] = [*by_bytes.get_legend_handles_labels()[0]]
    shared = all(min(values) == max(values) for values in controls.values())
    if controls:
        label = "control" if shared else "control, mean of the runs"
        handles.append(Line2D([], [], color=REFERENCE, ls=":", lw=0.9, label=label))
    if not shared:
        handles.append(Patch(color=FAINT, alpha=0.3, lw=0, label="control, range of the runs"))
    legend(figure, handles)
    return figure


def _cost_axis(axes: Axes, low: float, high: float) -> None:
    """Logarithmic where costs span more than a decade, else from 0."""
    if 0 < 10 * low < high:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, low, high)
        axes.set_xlim(low / 1.3, 1.3 * high)
    else:
        axes.set_xlim(0, 1.08 * high or 1.0)


def _area_axis(axes: Axes, low: float, high: float) -> None:
    """Of areas under the curve, given as what is missing to 1, `low` to `high`; best on top."""
    if 0 < 3 * low < high:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis, low, high)
        axes.set_ylim(1.2 * high, low / 1.2)
        axes.set_ylabel("Area under the ROC curve\n(log scale of 1 − AUC)")
    else:
        margin = 0.1 * (high - low) or 0.01
        axes.set_ylim(high + margin, max(0.0, low - margin))
        axes.set_ylabel("Area under the ROC curve")
    axes.yaxis.set_major_formatter(lambda missed, _: f"{1 - missed:.6g}")


def _write_beside(axes: Axes, heights: dict[str, float]) -> None:
    """Names of horizontal lines on the right, moved apart where the lines are close."""
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[0]
    places = sorted((float(to_axes.transform((x, height))[1]), name) for name, height in heights.items())
    lowest = -1.0
    for place, name in places:
        lowest = max(place, lowest + 0.06)
        axes.annotate(name, (1.02, lowest), xycoords="axes fraction", va="center", fontsize=7.5)


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    return dict(zip(labels(runs), runs, strict=True))


def _finished(run: Run) -> bool:
    return run.summary.get("status") == "finished"


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line colours and styles, the same in every figure of the same runs."""
    return {
        name: {"color": colour, "ls": _DASHES[place % len(_DASHES)]}
        for place, (name, colour) in enumerate(colours(names).items())
    }


def _bytes_by_step(run: Run, numbers: series.Floats) -> series.Floats:
    """Bytes that a node had sent after each step, mean over nodes."""
    every, _, sent = series.mean_over_nodes(run.steps, "bytes_sent")
    total: series.Floats = np.cumsum(sent)[np.searchsorted(every, numbers)]
    return total


def _controls(runs: Sequence[Run]) -> dict[str, list[float]]:
    """What each control misses to an area of 1, in each run; of those that all runs have. They are alike on one scene
    with one target prior, the untrained network with one seed besides."""
    found = {DETECTORS[name]: [run.summary["metrics"].get(f"auc_{name}") for run in runs] for name in CONTROLS}
    return {name: [1 - area for area in areas] for name, areas in found.items() if None not in areas}


def _shared_maps(runs: Sequence[Run]) -> list[str]:
    """The controls of which all runs hold the same map, with the same truth, scored on the same pixels."""

    maps = [run.maps for run in runs]

    def shared(name: str) -> bool:
        return all(name in found and np.array_equal(found[name], maps[0][name], equal_nan=True) for found in maps)

    return [name for name in CONTROLS if all(map(shared, (name, "target", "scored")))]
