"""What the links gave, against what was asked of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from edgesim.figures import series
from edgesim.figures.style import FAINT, REFERENCE, NotDrawable, colours, panels, paper, unit
from edgesim.results import Columns, Run
from edgesim.summary import measured
from node_agent.job import LinkSettings

_MOST = 150
"""points across a panel"""

_CLOSED: dict[str, Any] = {"facecolor": "none", "edgecolor": FAINT, "hatch": "/////", "lw": 0}


@paper
def throughput(run: Run) -> Figure:
    """Rate of each directed link over time: what it carried on average, what it gave to back-to-back messages, and
    what was configured."""
    links = _links(run)
    settings = run.link_settings
    curves = {name: _throughput(rows) for name, rows in links.items()}
    tops = {
        name: max(_largest(carried), _largest(burst), _rate(settings.get(name)))
        for name, (_, carried, burst) in curves.items()
    }
    size, symbol = unit("rate", max(tops.values()))
    clock, second = unit("clock", max(float(edges[-1]) for edges, _, _ in curves.values()))
    alike = max(tops.values()) <= 3 * min(tops.values())
    figure, axes = panels(len(links), height=1.55, share_y=alike)
    colour = colours(run.nodes)
    for panel, (name, (edges, carried, burst)) in zip(axes, curves.items(), strict=True):
        asked = settings.get(name)
        end = float(edges[-1]) / clock
        _hatch_closed(panel, asked, end, clock)
        _title(panel, name)
        panel.stairs(carried / size, edges / clock, fill=True, color=colour[name[0]], alpha=0.35, lw=0)
        middles = (edges[1:] + edges[:-1]) / 2
        panel.plot(middles / clock, burst / size, ".", ms=_dot(burst), color=colour[name[0]])
        if asked and asked.rate:
            panel.axhline(asked.rate / size, color=REFERENCE, ls="--", lw=1)
        panel.set_xlim(0, end)
        panel.set_ylim(0, 1.15 * (max(tops.values()) if alike else tops[name]) / size or 1.0)
    handles: list[Any] = [
        Line2D([], [], color=REFERENCE, ls="--", lw=1, label="configured"),
        Line2D([], [], color=REFERENCE, ls="", marker=".", ms=5, label="measured, back-to-back messages"),
        Patch(color=REFERENCE, alpha=0.35, lw=0, label="carried on average"),
    ]
    _finish(figure, handles, settings, f"Time ({second})", f"Rate ({symbol})")
    return figure


@paper
def delay(run: Run) -> Figure:
    """One-way delay of the messages on each directed link over time, and the configured delay and jitter."""
    links = _links(run)
    settings = run.link_settings
    curves = {name: _delay(rows) for name, rows in links.items()}
    if not any(np.isfinite(delays).any() for _, delays in curves.values()):
        raise NotDrawable(f"{run.name}: no delay was measured on any link")
    asked_most = max((asked.delay for asked in settings.values()), default=0.0)
    size, symbol = unit("duration", max(asked_most, *(_largest(delays) for _, delays in curves.values())))
    clock, second = unit("clock", max(float(rows["time_s"][-1]) for rows in links.values()))
    figure, axes = panels(len(links), height=1.55)
    colour = colours(run.nodes)
    for panel, (name, (times, delays)) in zip(axes, curves.items(), strict=True):
        asked = settings.get(name)
        end = float(links[name]["time_s"][-1]) / clock
        _hatch_closed(panel, asked, end, clock)
        _title(panel, name)
        panel.plot(times / clock, delays / size, ".", ms=_dot(delays), color=colour[name[0]], alpha=0.8)
        if asked:
            panel.axhline(asked.delay / size, color=REFERENCE, ls="--", lw=1)
            if asked.jitter:
                low, high = asked.delay - asked.jitter, asked.delay + asked.jitter
                panel.axhspan(low / size, high / size, color=FAINT, alpha=0.3, lw=0)
        mean = measured(links[name])["delay_s"]
        if mean is not None:
            note = f"mean {mean / size:.4g} {symbol}"
            panel.set_title(note, loc="right", color=REFERENCE, fontsize=7.5)
        panel.set_xlim(0, end)
        panel.set_ylim(*_delay_limits(delays / size, asked, size))
    handles: list[Any] = [
        Line2D([], [], color=REFERENCE, ls="--", lw=1, label="configured"),
        Line2D([], [], color=REFERENCE, ls="", marker=".", ms=5, label="measured, mean over messages"),
    ]
    if any(asked.jitter for asked in settings.values()):
        handles.insert(1, Patch(color=FAINT, alpha=0.3, lw=0, label="configured jitter (± 1 σ)"))
    _finish(figure, handles, settings, f"Time ({second})", f"One-way delay ({symbol})")
    return figure


def _links(run: Run) -> dict[tuple[str, str], Columns]:
    links = {link: run.of_link(*link) for link in run.ring}
    links = {link: rows for link, rows in links.items() if len(rows["step"])}
    if not links:
        raise NotDrawable(f"{run.name}: nothing was recorded of any link")
    return links


def _throughput(rows: Columns) -> tuple[series.Floats, series.Floats, series.Floats]:
    """Edges of the blocks (s), rate carried in each and rate of back-to-back messages in each (bit/s)."""
    starts = series.blocks(len(rows["step"]), _MOST)
    edges = np.append(0.0, rows["time_s"][series.ends(starts, len(rows["step"]))])
    wire = rows["payload_bytes"] + rows["header_bytes"] + rows["retransmitted_bytes"]
    carried = series.quotient(8 * series.totals(wire, starts), np.diff(edges))
    burst = series.quotient(series.totals(rows["rate_bits"], starts), series.totals(rows["rate_s"], starts))
    return edges, carried, burst


def _delay(rows: Columns) -> tuple[series.Floats, series.Floats]:
    """Time at the middle of each block and mean delay of its messages, s."""
    starts = series.blocks(len(rows["step"]), _MOST)
    edges = np.append(0.0, rows["time_s"][series.ends(starts, len(rows["step"]))])
    samples = rows["delay_samples"]
    delays = series.quotient(series.totals(rows["delay_s"] * samples, starts), series.totals(samples, starts))
    return (edges[1:] + edges[:-1]) / 2, delays


def _delay_limits(delays: series.Floats, asked: LinkSettings | None, size: float) -> tuple[float, float]:
    """Around what was configured and nearly all that was measured, never so close that noise fills the panel."""
    seen = delays[np.isfinite(delays)]
    low, high = np.percentile(seen, [1, 99]).tolist() if len(seen) else (np.inf, -np.inf)
    if asked:
        jitter = 2 * asked.jitter / size
        low, high = min(low, asked.delay / size - jitter), max(high, asked.delay / size + jitter)
    if low > high:
        return 0.0, 1.0
    margin = max(0.25 * (high - low), 0.05 * high) or 1.0
    return max(0.0, low - margin), high + margin


def _hatch_closed(panel: Axes, asked: LinkSettings | None, end: float, clock: float) -> None:
    """Hatched where no contact was scheduled, until `end` (in units of `clock` seconds)."""
    if asked is None or asked.schedule is None:
        return
    opened = [(window.start / clock, window.end / clock) for window in asked.schedule]
    edges = [0.0, *(edge for window in opened for edge in window), end]
    for closed_from, closed_to in zip(edges[0::2], edges[1::2], strict=True):
        if closed_from < min(closed_to, end):
            panel.axvspan(closed_from, min(closed_to, end), zorder=0, **_CLOSED)


def _dot(values: series.Floats) -> float:
    """Size of a marker, points: few are drawn large enough to be found."""
    return 3.5 if len(values) > 30 else 6.0


def _title(panel: Axes, name: tuple[str, str]) -> None:
    panel.set_title(f"{name[0]} → {name[1]}", loc="left")


def _finish(
    figure: Figure,
    handles: list[Any],
    settings: dict[tuple[str, str], LinkSettings],
    x_label: str,
    y_label: str,
) -> None:
    if any(asked.schedule is not None for asked in settings.values()):
        handles.append(Patch(label="no contact", **_CLOSED))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel(x_label, fontsize=8.5)
    figure.supylabel(y_label, fontsize=8.5)


def _rate(asked: LinkSettings | None) -> float:
    return asked.rate if asked and asked.rate else 0.0


def _largest(values: series.Floats) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
