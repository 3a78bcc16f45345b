"""How well the targets were found."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve

from edgesim.figures.style import FAINT, INK, WIDTH, NotDrawable, blank, legend, paper
from edgesim.results import Run

DETECTORS = {
    "score": "network",
    "untrained": "untrained network",
    "rx": "RX",
    "ace": "ACE",
    "cem": "CEM",
    "brightness": "brightness",
}
"""The maps whose curves are drawn, the run's own first, and what they are called."""

CONTROLS = tuple(name for name in DETECTORS if name != "score")
"""Those that are not trained."""

LINE_STYLES: dict[str, Any] = {
    "score": "-",
    "untrained": "--",
    "rx": "-.",
    "ace": (0, (6, 1, 1, 1, 1, 1)),
    "cem": (0, (8, 2)),
    "brightness": ":",
}
"""Each of its own, to be told apart where there is no colour."""

_COLOURS = {
    "score": "#0072B2",
    "untrained": "#56B4E9",
    "rx": "#E69F00",
    "ace": "#009E73",
    "cem": "#CC79A7",
    "brightness": "#4D4D4D",
}

_KINDS = {"background": "#EDEDED", "not scored": "#BDBDBD", "target, prior": "#56B4E9", "target": "#D55E00"}


@paper
def roc(run: Run) -> Figure:
    """Receiver operating characteristic of the trained network and of its controls, over the scored pixels."""
    figure = blank(WIDTH, 3.2)
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    drawn = [name for name in DETECTORS if name in run.maps]
    for place, name in enumerate(drawn):
        false_alarms, detections, area = roc_of(run, name)
        style = {"color": _COLOURS[name], "ls": LINE_STYLES[name], "lw": 2.0 if name == "score" else 1.3}
        for axes in (linear, logarithmic):
            label = f"{DETECTORS[name]} ({area:.4f})"
            axes.plot(false_alarms, detections, label=label, zorder=3 - 0.1 * place, solid_capstyle="butt", **style)
    if not drawn:
        raise NotDrawable(f"{run.name}: no detection map was written")
    finish_roc(linear, logarithmic, negatives(run))
    legend(figure, linear.get_legend_handles_labels()[0], title="Area under the curve")
    return figure


def roc_of(run: Run, name: str) -> tuple[NDArray[Any], NDArray[Any], float]:
    """False-alarm rates, detection rates and the area under the curve of one map.

    Raises:
        NotDrawable: the run has no such map, or its scored pixels are not of both kinds.
    """
    if not {name, "target", "scored"} <= run.maps.keys():
        raise NotDrawable(f"{run.name}: no map {name} with its truth was written")
    counted = run.maps["scored"] & np.isfinite(run.maps[name])
    truth = run.maps["target"][counted]
    if truth.all() or not truth.any():
        raise NotDrawable(f"{run.name}: the scored pixels of map {name} are not both targets and background")
    false_alarms, detections, _ = roc_curve(truth, run.maps[name][counted])
    return false_alarms, detections, float(auc(false_alarms, detections))


def negatives(run: Run) -> int:
    """Number of background pixels that count."""
    return int((run.maps["scored"] & ~run.maps["target"]).sum())


def finish_roc(linear: Axes, logarithmic: Axes, background: int) -> None:
    """Axes of a curve drawn twice: whole, and from the rate of a single false alarm among `background` pixels."""
    chance = np.geomspace(1 / background, 1, 100)
    for axes in (linear, logarithmic):
        axes.plot(chance, chance, color=FAINT, lw=0.8, zorder=0, label="chance")
        axes.set_xlabel("False-alarm rate")
        axes.grid(True)
        axes.set_ylim(-0.02, 1.02)
    linear.set_ylabel("Detection rate")
    linear.set_xlim(-0.02, 1.02)
    logarithmic.set_xscale("log")
    logarithmic.set_xlim(1 / background, 1)


@paper
def detection_map(run: Run) -> Figure:
    """The scene in false colour, the truth, and the score of the trained network."""
    if not {"rgb", "target", "scored", "score"} <= run.maps.keys():
        raise NotDrawable(f"{run.name}: no detection map was written")
    target, scored, score = (run.maps[name] for name in ("target", "scored", "score"))
    lines, samples = target.shape
    beside = lines >= 0.6 * samples
    if beside:
        figure = blank(WIDTH, min(9.0, (WIDTH - 0.8) / 3 * lines / samples + 0.75))
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
    else:
        figure = blank(WIDTH, min(9.0, 3 * ((WIDTH - 1.4) * lines / samples + 0.25) + 0.45))
        axes = figure.subplots(3, 1, sharex=True, sharey=True)
    colour, truth, found = axes
    colour.imshow(run.maps["rgb"], interpolation="nearest")
    colour.set_title("False colour", loc="left")
    kinds = np.where(target, np.where(scored, 3, 2), np.where(scored, 0, 1))
    _show_kinds(truth, kinds)
    _magnify(truth, kinds, target & ~scored)
    truth.set_title("Truth", loc="left")
    handles = [Patch(color=shade, label=name) for kind, (name, shade) in enumerate(_KINDS.items()) if kind in kinds]
    low, high = np.nanpercentile(score, [0.5, 99.9])
    image = found.imshow(score, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
    found.set_title("Score", loc="left")
    bar = found.inset_axes((1.03, 0, 0.05 if beside else 0.02, 1))
    figure.colorbar(image, cax=bar, extend="both", extendfrac=0.03, label="Detection score")
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    legend(figure, handles, "lower")
    return figure


def _show_kinds(axes: Axes, kinds: NDArray[Any]) -> None:
    axes.imshow(
        kinds, cmap=ListedColormap(list(_KINDS.values())), vmin=0, vmax=len(_KINDS) - 1, interpolation="nearest"
    )


def _magnify(axes: Axes, kinds: NDArray[Any], wanted: NDArray[np.bool_]) -> None:
    """Where the `wanted` pixels lie so close that they would hardly be seen: their surroundings once more, in the
    corner of the panel that has the least to show."""
    if not wanted.any():
        return
    lines, samples = kinds.shape
    places = np.argwhere(wanted)
    line, sample = (places.min(axis=0) + places.max(axis=0)) / 2
    reach = np.ptp(places, axis=0).max() / 2 + 3
    side = int(0.45 * min(lines, samples))
    if side < 4 * reach:
        return
    corners = [(top, left) for top in (0, lines - side) for left in (0, samples - side)]
    shown = {(top, left): np.count_nonzero(kinds[top : top + side, left : left + side]) for top, left in corners}
    top, left = min(corners, key=lambda corner: shown[corner])
    inset = axes.inset_axes((left / samples, 1 - (top + side) / lines, side / samples, side / lines))
    _show_kinds(inset, kinds)
    inset.set(xlim=(sample - reach, sample + reach), ylim=(line + reach, line - reach), xticks=[], yticks=[])
    inset.spines[:].set_visible(True)
    axes.indicate_inset((sample - reach, line - reach, 2 * reach, 2 * reach), edgecolor=INK, alpha=1, lw=0.6)
