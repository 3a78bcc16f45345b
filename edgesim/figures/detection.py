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

from edgesim.figures.style import FAINT, WIDTH, NotDrawable, blank, paper
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

_LINES: dict[str, dict[str, Any]] = {
    "score": {"color": "#0072B2", "lw": 2.0},
    "untrained": {"color": "#56B4E9", "ls": "--"},
    "rx": {"color": "#E69F00"},
    "ace": {"color": "#009E73"},
    "cem": {"color": "#CC79A7"},
    "brightness": {"color": "#4D4D4D", "ls": ":"},
}

_BACKGROUND, _UNSCORED, _PRIOR, _TARGET = "#EDEDED", "#BDBDBD", "#56B4E9", "#D55E00"


@paper
def roc(run: Run) -> Figure:
    """Receiver operating characteristic of the trained network and of its controls, over the scored pixels."""
    figure = blank(WIDTH, 3.2)
    linear, logarithmic = figure.subplots(1, 2, sharey=True)
    drawn = [name for name in DETECTORS if name in run.maps]
    for name in reversed(drawn):
        false_alarms, detections, area = roc_of(run, name)
        for axes in (linear, logarithmic):
            label = f"{DETECTORS[name]} ({area:.4f})"
            axes.plot(false_alarms, detections, label=label, solid_capstyle="butt", **_LINES[name])
    if not drawn:
        raise NotDrawable(f"{run.name}: no detection map was written")
    finish_roc(linear, logarithmic, negatives(run))
    handles, labels = linear.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=3, title="Area under the curve")
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
        axes.plot(chance, chance, color=FAINT, lw=0.8, zorder=0)
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
    palette = (_BACKGROUND, _UNSCORED, _PRIOR, _TARGET)
    truth.imshow(kinds, cmap=ListedColormap(palette), vmin=0, vmax=3, interpolation="nearest")
    truth.set_title("Truth", loc="left")
    names = ("background", "not scored", "target, prior", "target")
    handles = [
        Patch(color=shade, label=name)
        for kind, (name, shade) in enumerate(zip(names, palette, strict=True))
        if (kinds == kind).any()
    ]
    low, high = np.nanpercentile(score, [0.5, 99.9])
    image = found.imshow(score, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
    found.set_title("Score", loc="left")
    bar = found.inset_axes((1.03, 0, 0.05 if beside else 0.02, 1))
    figure.colorbar(image, cax=bar, extend="both", extendfrac=0.03)
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1)
    return figure
