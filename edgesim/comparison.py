"""Runs beside one another: what each reached, at what cost, and in what else they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgesim import summary
from edgesim.results import Run
from node_agent.compression import configure
from node_agent.compression.settings import CATALOGUE
from node_agent.plain import plain

CONTROLS = {
    "auc_rx": "RX",
    "auc_ace": "ACE",
    "auc_cem": "CEM",
    "auc_brightness": "brightness",
    "auc_untrained": "untrained",
}
"""Metrics that need no training, and what they are called."""

_WIDTH = 100
_MOST_DIFFERENCES = 12
_TITLE = 20
"""columns that a run's name may take at least, folded if it is longer"""
_ALWAYS_SHOWN = "density"


def compressor_label(compressor: Mapping[str, Any]) -> str:
    """Name, density, and every other setting that is not at its default: "gcc density=0.5"."""
    name = str(compressor.get("name", "?"))
    usual = plain(configure(name).model_dump()) if name in CATALOGUE else {}
    shown = [
        f"{key}={_setting(value)}"
        for key, value in sorted(plain(compressor).items(), key=lambda item: item[0] != _ALWAYS_SHOWN)
        if key != "name" and (key == _ALWAYS_SHOWN or key not in usual or value != usual[key])
    ]
    return " ".join([name, *shown])


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({compressor_label(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def labels(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: its compressor, with its seed or folder where that does not tell them apart."""
    short = [_compressor(run) or run.name for run in runs]
    if len(set(short)) == len(short):
        return short
    seeded = [f"{label}, seed {summary.of(run).get('seed')}" for label, run in zip(short, runs, strict=True)]
    if len(set(seeded)) == len(seeded):
        return seeded
    return [f"{label}, {run.path.resolve().name}" for label, run in zip(short, runs, strict=True)]


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run, in SI units; None for what the run did not measure or did not live to sum up."""
    return [_row(run) for run in runs]


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings other than the compressor in which the runs are not all alike: their value in each run, by dotted
    path. A setting that a run's topology does not have is None there."""
    flat = [dict(_flatten("", _settings(run))) for run in runs]
    paths = dict.fromkeys(path for settings in flat for path in settings)
    values = {path: [settings.get(path) for settings in flat] for path in paths}
    return {path: found for path, found in values.items() if any(value != found[0] for value in found)}


def to_json(runs: Sequence[Run]) -> str:
    """Rows, controls of each run and differences, as strict JSON."""
    content = {
        "runs": table(runs),
        "controls": [_controls(run) for run in runs],
        "differences": differences(runs),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def render(runs: Sequence[Run]) -> RenderableType:
    """The comparison for a terminal: table, controls, in what else the runs differ, what was mended in the scenes."""
    parts: list[RenderableType] = [_main_table(table(runs))]
    for controls in (_controls_table(runs), _differences_table(runs)):
        if controls is not None:
            parts += [Text(""), controls]
    for lines in (list(_carried_lines(runs)), list(_energy_lines(runs)), list(_mended_lines(runs))):
        parts += [Text(""), *map(Text, lines)] if lines else []
    return Group(*parts)


def _row(run: Run) -> dict[str, Any]:
    found = summary.of(run)
    sent = found.get("bytes_sent")
    # Before the first step the network is its own control.
    metrics = found.get("metrics", {}) if found.get("metrics_step") != 0 else {}
    return {
        "run": run.path.resolve().name,
        "name": run.name,
        "status": found["status"],
        "steps": found.get("steps"),
        "compressor": _compressor(run),
        "auc": metrics.get("auc"),
        "auc_residual": metrics.get("auc_residual"),
        "bytes_per_node": sum(sent.values()) / len(sent) if sent else None,
        "ratio_wire": found.get("ratio_wire"),
        "ratio_values": found.get("ratio_values"),
        "time_s": found.get("time_s"),
        "time_to_target_s": found.get("time_to_target_s"),
        "energy_per_node_j": _mean(found.get("energy_j")),
        "energy_source": sorted({source for source in (found.get("energy_source") or {}).values() if source}) or None,
        "step_p50_s": found.get("step_time_s", {}).get("p50"),
        "nodes_agree": found.get("nodes_agree"),
        "mended": found.get("mended"),
    }


def _mean(of_nodes: Mapping[str, float | None] | None) -> float | None:
    """None unless it is known of every node."""
    known = [value for value in (of_nodes or {}).values() if value is not None]
    return sum(known) / len(known) if known and len(known) == len(of_nodes or {}) else None


def _compressor(run: Run) -> str | None:
    found = summary.of(run)
    settings = found.get("compressor")
    if settings and found.get("density"):  # it followed the link
        settings = {**settings, _ALWAYS_SHOWN: "auto"}
    return compressor_label(settings) if settings else None


def _controls(run: Run) -> dict[str, float]:
    metrics = summary.of(run).get("metrics", {})
    return {name: metrics[name] for name in CONTROLS if metrics.get(name) is not None}


def _settings(run: Run) -> dict[str, Any]:
    """What a run was, apart from its compressor: its topology where that was recorded."""
    topology = dict(run.config.get("topology") or {})
    training = dict(topology.get("training") or {})
    training.pop("compressor", None)
    if training:
        topology["training"] = training
    if not topology:
        topology = {key: summary.of(run).get(key) for key in ("name", "seed", "clock", "links_imposed", "steps")}
        topology["nodes"] = run.nodes
    return {**topology, "versions": run.config.get("versions") or {}}


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        yield prefix, f"{len(value)} entries"
        for index, item in enumerate(value):
            yield from _flatten(f"{prefix}.{index}", item)
    else:
        yield prefix, value


def _main_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    goal = any(row["time_to_target_s"] is not None for row in rows)
    energy = any(row["energy_per_node_j"] is not None for row in rows)
    left_out = {"To target": not goal, "J/node": not energy}
    headings = ("AUC", "Residual", "MB/node", "Wire", "Values", "Time", "To target", "J/node", "Step p50", "Agree")
    agree = {True: Text("yes", "green"), False: Text("NO", "bold red"), None: Text("–")}
    cells = [
        [
            Text(_area(row["auc"])),
            Text(_area(row["auc_residual"])),
            Text(_amount(row["bytes_per_node"], 1e6)),
            Text(_amount(row["ratio_wire"], suffix=" ×")),
            Text(_amount(row["ratio_values"], suffix=" ×")),
            Text(_amount(row["time_s"], suffix=" s")),
            *([Text(_amount(row["time_to_target_s"], suffix=" s"))] if goal else []),
            *([Text(_amount(row["energy_per_node_j"]))] if energy else []),
            Text(_amount(row["step_p50_s"], 1e-3, " ms")),
            agree[row["nodes_agree"]],
        ]
        for row in rows
    ]
    shown = [heading for heading in headings if not left_out.get(heading)]
    return _Fitting("Compressor", shown, [_title(row) for row in rows], cells)


@dataclass(frozen=True)
class _Fitting:
    """A table with a line a run where the terminal is wide enough, else with a column a run: no number is ever cut."""

    corner: str
    headings: Sequence[str]
    titles: Sequence[Text]
    cells: Sequence[Sequence[Text]]
    """of each run, one a heading"""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [
            max(cell.cell_len for cell in (Text(heading), *column))
            for heading, column in zip(self.headings, zip(*self.cells, strict=True), strict=True)
        ]
        if _TITLE + sum(2 + width for width in widths) <= options.max_width:
            yield self._by_line(widths)
            return
        side = max(len(heading) for heading in (self.corner, *self.headings))
        fitting = max(1, (options.max_width - side) // (2 + _TITLE))
        for start in range(0, len(self.titles), fitting):
            if start:
                yield Text("")
            yield self._by_column(slice(start, start + fitting))

    def _by_line(self, widths: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(self.corner, overflow="fold", min_width=_TITLE, max_width=28)
        for heading, width in zip(self.headings, widths, strict=True):
            table.add_column(heading, justify="right", no_wrap=True, min_width=width)
        for title, cells in zip(self.titles, self.cells, strict=True):
            table.add_row(title, *cells)
        return table

    def _by_column(self, chosen: slice) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(self.corner, style="bold", overflow="fold")
        for title in self.titles[chosen]:
            table.add_column(title, justify="right", overflow="fold", max_width=_TITLE)
        for heading, column in zip(self.headings, zip(*self.cells[chosen], strict=True), strict=True):
            table.add_row(heading, *column)
        return table


def _title(row: Mapping[str, Any]) -> Text:
    title = Text(row["compressor"] or "–", "bold")
    if row["status"] != "finished":
        title.append(f"  {row['status']} after {_steps(row['steps'])}", "red")
    title.append(f"\n{row['run']}", "dim")
    return title


def _steps(count: int | None) -> str:
    return f"{count or 0} step{'' if count == 1 else 's'}"


def _carried_lines(runs: Sequence[Run]) -> Iterator[str]:
    """What left by the links' devices of the bytes that the nodes sent, where the kernel counted it."""
    for label, run in zip(labels(runs), runs, strict=True):
        entries = [entry for entry in summary.of(run).get("ledger", {}).values() if entry.get("carried_ratio")]
        if entries:
            sent, carried, header, transport, whole = (
                sum(entry[f"{what}_bytes"] for entry in entries)
                for what in ("encoded", "carried", "header", "transport", "interface")
            )
            besides = (header + transport) / (whole - header - transport)
            yield f"{label}: links carried {carried / sent:.4f} × the bytes sent, and {100 * besides:.1f} % of headers"


def _energy_lines(runs: Sequence[Run]) -> Iterator[str]:
    """How what the runs used is known: figures of different sources are no comparison."""
    for label, row in zip(labels(runs), table(runs), strict=True):
        if row["energy_per_node_j"] is not None:
            yield f"{label}: energy {'; '.join(row['energy_source'] or ['of unknown source'])}"


def _mended_lines(runs: Sequence[Run]) -> Iterator[str]:
    """What had to be mended in the runs' scenes, each said once."""
    said = set()
    for run in runs:
        mended = summary.of(run).get("mended") or {}
        counts = {
            "bands without information left out": len(mended.get("bands_dropped", ())),
            "missing values interpolated": mended.get("non_finite", 0),
            "negative values set to zero": mended.get("negative", 0),
            "empty pixels left out of training": mended.get("empty_pixels", 0),
        }
        line = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        scene = str(summary.of(run).get("scene")).split(":")[0]
        if line and (scene, line) not in said:
            said.add((scene, line))
            yield f"{scene}: {line}"


def _controls_table(runs: Sequence[Run]) -> RenderableType | None:
    """One line where the runs share their controls, else one a run."""
    found = [(label, _controls(run)) for label, run in zip(labels(runs), runs, strict=True)]
    found = [(label, controls) for label, controls in found if controls]
    if not found:
        return None
    names = [name for name in CONTROLS if any(name in controls for _, controls in found)]
    cells = [[Text(_area(controls.get(name))) for name in names] for _, controls in found]
    titles = [Text(label) for label, _ in found]
    if all(row == cells[0] for row in cells):
        titles, cells = [Text("of every run") if len(runs) > 1 else titles[0]], cells[:1]
    return _Fitting("Controls (AUC)", [CONTROLS[name] for name in names], titles, cells)


def _differences_table(runs: Sequence[Run]) -> RenderableType | None:
    found = differences(runs)
    if not found:
        return None
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("The runs also differ in", overflow="fold", style="yellow")
    names = labels(runs)
    share = max(18, (_WIDTH - 30) // len(runs))
    for name in names:
        shown.add_column(name, overflow="fold", max_width=share)
    for path, values in list(found.items())[:_MOST_DIFFERENCES]:
        shown.add_row(path, *("–" if value is None else str(value) for value in values))
    hidden = len(found) - _MOST_DIFFERENCES
    if hidden <= 0:
        return shown
    return Group(shown, Padding(Text(f"and {hidden} more settings (--json shows all)", "yellow"), (0, 0)))


def _area(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _amount(value: float | None, unit: float = 1.0, suffix: str = "") -> str:
    """Four digits or more, without decimals that nobody compares."""
    if value is None:
        return "–"
    value /= unit
    decimals = 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{decimals}f}{suffix}"
