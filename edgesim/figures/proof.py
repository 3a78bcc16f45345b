"""How far each link is from what was asked of it: rate and delay, with what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from edgesim.figures.style import FAINT, INK, PALETTE, REFERENCE, WIDTH, blank, legend, paper, quantity
from edgesim.proof import Proof
from node_agent.judgement import asked_of, slack

_OFF = PALETTE[3]


@paper
def deviation(proofs: Sequence[Proof], tolerance: float) -> Figure:
    """A row for each direction of a link: rate off by so many per cent, median delay off by so many ms; the bars are
    what is allowed."""
    names = [f"{proof.requested.source} → {proof.requested.target}" for proof in proofs]
    figure = blank(WIDTH, 0.9 + 0.24 * len(proofs))
    rates, delays = figure.subplots(1, 2, sharey=True)
    for row, proof in enumerate(proofs):
        asked, found = asked_of(proof.requested, proof.goodput), proof.measured
        if asked.rate is not None:
            rates.barh(row, 200 * tolerance, left=-100 * tolerance, height=0.7, color=FAINT, alpha=0.35, lw=0)
            if found.rate_bit_s is not None:
                rates.plot(100 * (found.rate_bit_s / asked.rate - 1), row, "o", ms=4.5, color=_colour(proof, "rate"))
        allowed = 1e3 * slack(proof.requested, found.samples, tolerance)
        delays.barh(row, 2 * allowed, left=-allowed, height=0.7, color=FAINT, alpha=0.35, lw=0)
        if found.delay_s is not None:
            delays.plot(1e3 * (found.delay_s - asked.delay), row, "o", ms=4.5, color=_colour(proof, "delay"))
        _beside(rates, row, "unlimited" if asked.rate is None else quantity("rate", asked.rate))
        _beside(delays, row, quantity("duration", asked.delay) if asked.delay else "0 s")
    for axes, label in ((rates, "Rate, measured against asked (%)"), (delays, "Median delay, measured − asked (ms)")):
        axes.axvline(0, color=REFERENCE, ls="--", lw=1)
        axes.set_xlabel(label)
        low, high = axes.get_xlim()
        most = max(-low, high)
        axes.set_xlim(-most, most)
        axes.grid(True, axis="x")
    rates.set_yticks(range(len(names)), names)
    rates.invert_yaxis()
    handles: list[Artist] = [
        Line2D([], [], color=PALETTE[0], ls="", marker="o", ms=4.5, label="measured"),
        Patch(color=FAINT, alpha=0.35, lw=0, label="allowed"),
        Line2D([], [], color=REFERENCE, ls="--", lw=1, label="asked (its value at the right)"),
    ]
    if any(proof.deviations for proof in proofs):
        handles.insert(1, Line2D([], [], color=_OFF, ls="", marker="o", ms=4.5, label="misses its tolerance"))
    legend(figure, handles)
    return figure


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
