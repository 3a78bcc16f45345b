"""How far each link is from what was asked of it, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from edgesim.figures.style import FAINT, INK, PALETTE, REFERENCE, WIDTH, blank, legend, paper, quantity
from edgesim.proof import Proof, loss_interval
from node_agent.judgement import JITTER_FLOOR, asked_of, slack

_OFF = PALETTE[3]


@paper
def deviation(proofs: Sequence[Proof], tolerance: float) -> Figure:
    """A row for each direction of a link: by how much rate, median delay, jitter and loss are off, with what is
    allowed; what was asked stands at the right."""
    names = [f"{proof.requested.source} → {proof.requested.target}" for proof in proofs]
    figure = blank(WIDTH, 1.5 + 0.44 * len(proofs))
    panels = figure.subplots(2, 2, sharey=True)
    for row, proof in enumerate(proofs):
        for axes, mark in zip(panels.flat, _marks(proof, tolerance), strict=True):
            _draw(axes, row, mark, proof)
    labels = ("Rate, off by (%)", "Median delay, off by (ms)", "Jitter, off by (ms)", "Loss, off by (%)")
    for axes, label in zip(panels.flat, labels, strict=True):
        axes.axvline(0, color=REFERENCE, ls="--", lw=1)
        axes.set_xlabel(label)
        most = max(map(abs, axes.get_xlim()))
        axes.set_xlim(-most, most)
        axes.grid(True, axis="x")
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
    handles: list[Artist] = [
        Line2D([], [], color=PALETTE[0], ls="", marker="o", ms=4.5, label="measured"),
        Patch(color=FAINT, alpha=0.35, lw=0, label="allowed"),
        Line2D([], [], color=REFERENCE, ls="--", lw=1, label="asked"),
    ]
    if any(proof.deviations for proof in proofs):
        handles.insert(1, Line2D([], [], color=_OFF, ls="", marker="o", ms=4.5, label="misses its tolerance"))
    legend(figure, handles)
    return figure


class _Mark(NamedTuple):
    """One quantity of a direction, in the panel's unit."""

    name: str
    off: float | None
    """None: not measured, or nothing was asked"""
    low: float
    high: float
    """what is allowed; not a number where nothing is judged"""
    asked: str


def _marks(proof: Proof, tolerance: float) -> Iterator[_Mark]:
    link, found = proof.requested, proof.measured
    asked, allowed = asked_of(link, proof.goodput), slack(link, found, tolerance)
    rate = "unlimited" if asked.rate is None else quantity("rate", asked.rate)
    if asked.rate is None or found.rate_bit_s is None:
        yield _Mark("rate", None, math.nan, math.nan, rate)
    else:
        off = 100 * (found.rate_bit_s / asked.rate - 1)
        yield _Mark("rate", off, -100 * allowed.rate, 100 * allowed.rate, rate)
    off_by = None if found.delay_s is None else 1e3 * (found.delay_s - asked.delay)
    yield _Mark("delay", off_by, -1e3 * allowed.delay, 1e3 * allowed.delay, _duration(link.delay))
    off_by = None if found.jitter_s is None else 1e3 * (found.jitter_s - asked.jitter)
    bound = 1e3 * allowed.jitter if link.jitter > JITTER_FLOOR else math.nan
    yield _Mark("jitter", off_by, -bound, bound, _duration(link.jitter))
    interval = loss_interval(proof)
    low, high = (100 * (edge - link.loss) for edge in interval) if interval else (math.nan, math.nan)
    yield _Mark(
        "loss", None if proof.loss is None else 100 * (proof.loss - link.loss), low, high, f"{100 * link.loss:g} %"
    )


def _duration(seconds: float) -> str:
    return quantity("duration", seconds) if seconds else "0 s"


def _draw(axes: Axes, row: int, mark: _Mark, proof: Proof) -> None:
    if math.isfinite(mark.low):
        axes.barh(row, mark.high - mark.low, left=mark.low, height=0.7, color=FAINT, alpha=0.35, lw=0)
    if mark.off is not None:
        axes.plot(mark.off, row, "o", ms=4.5, color=_colour(proof, mark.name))
    _beside(axes, row, mark.asked)


def _colour(proof: Proof, quantity: str) -> str:
    return _OFF if any(missed.startswith(quantity) for missed in proof.deviations) else PALETTE[0]


def _beside(axes: Axes, row: int, text: str) -> None:
    axes.annotate(
        text,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=7,
        color=INK,
    )
