"""What the links gave, against what was asked of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from edgesim import summary
from edgesim.figures import series
from edgesim.figures.style import FAINT, REFERENCE, NotDrawable, colours, legend, panels, paper, unit
from edgesim.results import Columns, Run
from node_agent.job import LinkSettings

_MOST = 150
"""points across a panel"""

_CLOSED: dict[str, Any] = {"facecolor": "none", "edgecolor": FAINT, "hatch": "/////", "lw": 0}


@paper
def throughput(run: Run) -> Figure:
    """Rate of each directed link over time: what it carried on average, what it gave to back-to-back messages, and
    what was configured."""
    links = _links(run)
    settings = run.hop_settings
    end = _end(links)
    closed = {name: _closed(run, settings.get(name), end) for name in links}
    curves = {name: _throughput(rows) for name, rows in links.items()}
    tops = {
        name: max(_largest(carried), _largest(burst), *_configured(run, settings.get(name), "rate", end)[1])
        for name, (_, carried, burst) in curves.items()
    }
    size, symbol = unit("rate", max(tops.values()))
    clock, second = unit("clock", end)
    alike = max(tops.values()) <= 3 * min(tops.values())
    figure, axes = panels(_titles(links), height=1.55, share_y=alike)
    colour = colours(run.nodes)
    for panel, (name, (edges, carried, burst)) in zip(axes, curves.items(), strict=True):
        _time_axis(panel, closed[name], end, clock)
        panel.stairs(carried / size, edges / clock, fill=True, color=colour[name[0]], alpha=0.35, lw=0)
        middles = (edges[1:] + edges[:-1]) / 2
        panel.plot(middles / clock, burst / size, ".", ms=_dot(burst), color=colour[name[0]])
        _dashed(panel, *_configured(run, settings.get(name), "rate", end), clock, size)
        panel.set_ylim(0, 1.15 * (max(tops.values()) if alike else tops[name]) / size or 1.0)
    handles: list[Artist] = [Patch(color=REFERENCE, alpha=0.35, lw=0, label="carried on average")]
    if any(np.isfinite(burst).any() for _, _, burst in curves.values()):
        handles.insert(0, _dots("measured, back-to-back messages"))
    if any(np.any(_configured(run, settings.get(name), "rate", end)[1]) for name in links):
        handles.insert(0, _dashes("configured"))
    _finish(figure, handles, any(closed.values()), f"Time ({second})", f"Rate ({symbol})")
    return figure


@paper
def delay(run: Run) -> Figure:
    """One-way delay of the messages on each directed link over time, and the configured delay and jitter."""
    links = _links(run)
    settings = run.hop_settings
    end = _end(links)
    closed = {name: _closed(run, settings.get(name), end) for name in links}
    curves = {name: _delay(rows) for name, rows in links.items()}
    if not any(np.isfinite(delays).any() for _, delays in curves.values()):
        raise NotDrawable(f"{run.name}: no delay was measured on any link")
    delayed = {name: _configured(run, settings.get(name), "delay", end) for name in links}
    asked_most = max(float(values.max(initial=0.0)) for _, values in delayed.values())
    size, symbol = unit("duration", max(asked_most, *(_largest(delays) for _, delays in curves.values())))
    clock, second = unit("clock", end)
    means = [summary.measured(rows)["delay_s"] for rows in links.values()]
    notes = [f"mean {f'{mean / size:#.4g}'.rstrip('.')} {symbol}" if mean is not None else "" for mean in means]
    figure, axes = panels(_titles(links), height=1.55, notes=notes)
    colour = colours(run.nodes)
    for panel, (name, (times, delays)) in zip(axes, curves.items(), strict=True):
        asked = settings.get(name)
        _time_axis(panel, closed[name], end, clock)
        panel.plot(times / clock, delays / size, ".", ms=_dot(delays), color=colour[name[0]], alpha=0.8)
        limits = None
        if asked:
            edges, middle = delayed[name]
            spread = _configured(run, asked, "jitter", end)[1]
            panel.stairs(middle / size, edges / clock, baseline=None, color=REFERENCE, ls="--", lw=1)
            if spread.any():
                low, high = (middle - spread) / size, (middle + spread) / size
                panel.stairs(high, edges / clock, baseline=low, fill=True, color=FAINT, alpha=0.3, lw=0)
            limits = (float((middle - 2 * spread).min()) / size, float((middle + 2 * spread).max()) / size)
        panel.set_ylim(*_delay_limits(delays / size, limits))
    lossy = any(state.loss for name in links if (asked := settings.get(name)) for state in (asked, *asked.changes))
    handles: list[Artist] = [
        _dashes("configured, without retransmissions" if lossy else "configured"),
        _dots("measured, mean over messages"),
    ]
    if any(state.jitter for asked in settings.values() for state in (asked, *asked.changes)):
        handles.insert(1, Patch(color=FAINT, alpha=0.3, lw=0, label="configured jitter (± 1 σ)"))
    _finish(figure, handles, any(closed.values()), f"Time ({second})", f"One-way delay ({symbol})")
    return figure


def _links(run: Run) -> dict[tuple[str, str], Columns]:
    links = {link: run.of_link(*link) for link in run.ring}
    links = {link: rows for link, rows in links.items() if len(rows["step"])}
    if not links:
        raise NotDrawable(f"{run.name}: nothing was recorded of any link")
    return links


def _titles(links: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{source} → {target}" for source, target in links]


def _throughput(rows: Columns) -> tuple[series.Floats, series.Floats, series.Floats]:
    """Edges of the blocks (s), rate carried in each and rate of back-to-back messages in each (bit/s)."""
    starts = series.blocks(len(rows["step"]), _MOST)
    edges = np.append(0.0, rows["time_s"][series.ends(starts, len(rows["step"]))])
    wire = rows["payload_bytes"] + rows["header_bytes"] + rows["retransmitted_bytes"] + rows["framing_bytes"]
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


def _delay_limits(delays: series.Floats, asked: tuple[float, float] | None) -> tuple[float, float]:
    """Around what was configured and nearly all that was measured, never so close that noise fills the panel."""
    seen = delays[np.isfinite(delays)]
    low, high = np.percentile(seen, [1, 99]).tolist() if len(seen) else (np.inf, -np.inf)
    if asked:
        low, high = min(low, asked[0]), max(high, asked[1])
    if low > high:
        return 0.0, 1.0
    margin = max(0.25 * (high - low), 0.05 * high) or 1.0
    return max(0.0, low - margin), high + margin


def _end(links: dict[tuple[str, str], Columns]) -> float:
    """When the last of them was heard of, s."""
    return max(float(rows["time_s"][-1]) for rows in links.values())


def _configured(run: Run, asked: LinkSettings | None, quantity: str, end: float) -> tuple[series.Floats, series.Floats]:
    """Edges (s of training, until `end`) and what a link was asked for between them; 0 where that is no limit."""
    if asked is None:
        return np.array([0.0, end]), np.zeros(1)
    began = summary.of(run).get("setup_s") or 0.0
    moments = [0.0, *(moment for change in asked.changes if 0.0 < (moment := change.at - began) < end)]
    values = [getattr(asked.state_at(moment + began), quantity) or 0.0 for moment in moments]
    return np.array([*moments, end]), np.array(values)


def _dashed(panel: Axes, edges: series.Floats, rates: series.Floats, clock: float, size: float) -> None:
    """The rates that were configured; nothing where there was no limit."""
    shown = np.where(rates > 0, rates, np.nan) / size
    panel.stairs(shown, edges / clock, baseline=None, color=REFERENCE, ls="--", lw=1)


def _closed(run: Run, asked: LinkSettings | None, end: float) -> list[tuple[float, float]]:
    """When no contact was scheduled, s of training until `end`. Contacts are on the run's clock, which started before
    training did."""
    if asked is None or asked.schedule is None:
        return []
    began = summary.of(run).get("setup_s") or 0.0
    contacts = [moment - began for window in asked.schedule for moment in (window.start, window.end)]
    edges = np.clip([0.0, *contacts, end], 0.0, end).tolist()
    return [(start, stop) for start, stop in zip(edges[0::2], edges[1::2], strict=True) if start < stop]


def _time_axis(panel: Axes, closed: list[tuple[float, float]], end: float, clock: float) -> None:
    """In units of `clock` seconds, with room for the first and last markers; hatched where the link was closed."""
    panel.set_xlim(-0.02 * end / clock, 1.02 * end / clock)
    for start, stop in closed:
        panel.axvspan(start / clock, stop / clock, zorder=0, **_CLOSED)


def _dashes(label: str) -> Line2D:
    return Line2D([], [], color=REFERENCE, ls="--", lw=1, label=label)


def _dots(label: str) -> Line2D:
    return Line2D([], [], color=REFERENCE, ls="", marker=".", ms=5, label=label)


def _dot(values: series.Floats) -> float:
    """Size of a marker, points: few are drawn large enough to be found."""
    return 3.5 if len(values) > 30 else 6.0


def _finish(
    figure: Figure,
    handles: list[Artist],
    closed: bool,
    x_label: str,
    y_label: str,
) -> None:
    if closed:
        handles.append(Patch(label="no contact", **_CLOSED))
    legend(figure, handles)
    figure.supxlabel(x_label, fontsize=8.5)
    figure.supylabel(y_label, fontsize=8.5)


def _largest(values: series.Floats) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
