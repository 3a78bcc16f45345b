"""A topology as people draw it: the ring with its links, and a table of every direction of every link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from edgesim.topology.events import Event
from edgesim.topology.fields import LATEST
from edgesim.topology.quantities import format_fraction, format_rate, format_time
from edgesim.topology.schema import Topology
from node_agent.compression.settings import AutomaticDensity, CompressorSettings
from node_agent.job import Change, LinkSettings, Window

LONGEST_NAME = 20
BOX_HEIGHT = 3
# One character for one, so that what is aligned stays so.
ASCII = str.maketrans(
    {"╭": "+", "╮": "+", "╰": "+", "╯": "+", "┬": "+", "┴": "+", "├": "+", "┤": "+", "─": "-", "│": "|"}
    | {"▶": ">", "◀": "<", "▼": "v", "▲": "^", "→": ">", "·": ",", "±": "~", "…": "*", "µ": "u", "–": "-"}
)


@dataclass(frozen=True)
class Picture:
    """Prints itself on a rich console (in ASCII where that is all it can), and as plain text by `str`."""

    topology: Topology

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = options.ascii_only
        heading, training = _heading(self.topology), _training(self.topology)
        yield Text(_plain(heading, plain), style="bold")
        yield Text()
        yield Text(_plain(ring(self.topology, options.max_width), plain), no_wrap=True, overflow="ignore")
        if self.topology.links:
            yield _table(self.topology, plain)
        else:
            yield Text()
        if self.topology.events:
            yield _events(self.topology.events, plain)
            yield Text()
        yield Text(_plain(training, plain))

    def __str__(self) -> str:
        console = Console(width=80, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def draw(topology: Topology) -> Picture:
    """What `edgesim show` prints: heading, ring, table of links, training."""
    return Picture(topology)


def _plain(text: str, ascii_only: bool) -> str:
    return text.translate(ASCII) if ascii_only else text


def _heading(topology: Topology) -> str:
    nodes, links = topology.world_size, len(topology.links)
    return (
        f"{topology.name}: {nodes} node{'s' * (nodes != 1)}, {links} link{'s' * (links != 1)}"
        f" · links {topology.emulation.links} · {topology.emulation.clock} clock · seed {topology.seed}"
    )


def _training(topology: Topology) -> str:
    training = topology.training
    target = f" ({training.target})" if training.target is not None else ""
    compressors = [_named(settings, training.density) for settings in training.compressor]
    widths = "-".join(map(str, training.network))
    return "\n".join(
        [
            f"training    {training.workload} on {training.scene}{target}",
            f"            {training.steps} steps of {training.batch} pixels a node, network {widths}",
            f"compressor  {' · '.join(compressors)}",
        ]
    )


def _named(settings: CompressorSettings, followed: AutomaticDensity | None = None) -> str:
    """The compressor's name, its density if it has one, and whatever is not as usual."""
    unusual = settings.model_dump(exclude_defaults=True).keys() - {"name"}
    told = [
        f"{key} auto ({followed.lowest:g} to {followed.highest:g})"
        if key == "density" and followed is not None
        else f"{key} ({_named(value)})"
        if isinstance(value, CompressorSettings)
        else f"{key} {value}"
        for key, value in settings
        if key == "density" or key in unusual
    ]
    return " ".join([settings.name, *told])


def _table(topology: Topology, ascii_only: bool) -> Table:
    table = Table(box=box.ASCII if ascii_only else box.SIMPLE_HEAD, pad_edge=ascii_only)
    for heading in ("from", "to"):
        table.add_column(heading, overflow="fold")
    for heading in ("rate", "delay", "jitter", "loss"):
        table.add_column(heading, justify="right")
    table.add_column("contacts")
    if any(link.changes for link in topology.directed_links()):
        table.add_column("changes")
    table.add_column("ring")
    used = {ends for hop in topology.ring_hops() for ends in hop.links}
    for link in topology.directed_links():
        cells = [
            link.source,
            link.target,
            format_rate(link.rate),
            format_time(link.delay),
            format_time(link.jitter),
            format_fraction(link.loss),
            _span(link.schedule) if link.schedule else "always",
            "yes" if (link.source, link.target) in used else "",
        ]
        if len(table.columns) > len(cells):
            cells.insert(-1, _changes(link.changes))
        table.add_row(*(_plain(cell, ascii_only) for cell in cells))
    return table


def _span(schedule: Sequence[Window]) -> str:
    start, end = format_time(schedule[0].start), schedule[-1].end
    if end >= LATEST:
        return f"{len(schedule)} from {start} on" if len(schedule) > 1 else f"from {start} on"
    span = f"{start} to {format_time(end)}"
    return span if len(schedule) == 1 else f"{len(schedule)} in {span}"


def _changes(changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    return (
        f"{len(changes)} from {format_time(changes[0].at)} on"
        if len(changes) > 1
        else f"at {format_time(changes[0].at)}"
    )


def _events(events: Sequence[Event], ascii_only: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    for place, event in enumerate(sorted(events, key=lambda event: event.at)):
        ends = event.link or ()
        what = event.node or (" → " if event.oneway else " – ").join(ends)
        lasting = f"for {format_time(event.lasting)}" if event.lasting < LATEST else ""
        cells = ("events" if place == 0 else "", format_time(event.at), event.event, what, lasting, event.changes())
        table.add_row(*(_plain(cell, ascii_only) for cell in cells))
    return table


def _properties(link: LinkSettings) -> list[str]:
    jitter = f" ± {format_time(link.jitter)}" if link.jitter else ""
    parts = [format_rate(link.rate), f"{format_time(link.delay)}{jitter}"]
    if link.loss:
        parts.append(f"loss {format_fraction(link.loss)}{' in bursts' if link.bursts else ''}")
    if link.schedule:
        parts.append(f"contact{'s' * (len(link.schedule) > 1)} {_span(link.schedule)}")
    if link.changes:
        parts.append(f"change{'s' * (len(link.changes) > 1)} {_changes(link.changes)}")
    return parts


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """The parts on as few lines as they fit on; a part is cut only where it alone is too long."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) > width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = longer
    return [_cut(line, width) for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _short(name: str) -> str:
    """Cut in the middle: names tend to differ at their ends."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _label(topology: Topology, place: int, arrows: str, width: int) -> list[str]:
    """Lines about a hop of the ring. A link: once if both directions are the same, else with the arrow of each. Several
    links: the nodes between them, and what they come to."""
    hop, hops_link = topology.ring_hops()[place], topology.ring_links()[place]
    if hop.over:
        return _wrapped([f"over {', '.join(map(_short, hop.over))}", *_properties(hops_link)], width)
    source, target = hop.way
    there, back = (_properties(topology.link(*ends)) for ends in ((source, target), (target, source)))
    if there == back:
        return _wrapped(there, width)
    return [
        f"{arrow if i == 0 else ' '} {line}"
        for arrow, parts in zip(arrows, (there, back), strict=True)
        for i, line in enumerate(_wrapped(parts, width - 2))
    ]


class _Canvas:
    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], str] = {}

    def put(self, row: int, column: int, text: str) -> None:
        self._cells.update({(row, column + offset): character for offset, character in enumerate(text)})

    def down(self, column: int, rows: range, character: str = "│") -> None:
        self._cells.update({(row, column): character for row in rows})

    def __str__(self) -> str:
        rows = [row for row, _ in self._cells]
        columns = 1 + max(column for _, column in self._cells)
        return "\n".join(
            "".join(self._cells.get((row, column), " ") for column in range(columns)).rstrip()
            for row in range(min(rows), max(rows) + 1)
        )


def ring(topology: Topology, width: int = 80) -> str:
    """The ring as text: its first node top left, gradients travelling clockwise.

    Two columns, down the right one and up the left one, so that any number of nodes fits the width. Names longer than
    `LONGEST_NAME` are cut; the table has them in full.
    """
    order = topology.ring
    names = [_short(name) for name in order]
    wide = max(map(len, names)) + 4 | 1  # odd, so that it has a middle
    canvas = _Canvas()
    if len(order) == 1:
        _box(canvas, 0, wide // 2, wide, names[0])
        canvas.put(1, wide + 2, "alone: nothing is exchanged")
        return str(canvas)

    # Rows of the nodes: 0 is top left, 1 to `right` stand on the right, the rest on the left from the bottom up.
    right = (len(order) + 1) // 2
    rows = [0, *range(right), *range(right - 1, 0, -1)][: len(order)]
    top, bottom = 0, right if right > 1 else None
    upright = [i for i in range(len(order)) if i not in (top, bottom)] if right > 1 else []

    most = max(width, 2 * wide + 30) - wide
    labels = {}
    for i in range(len(order)):
        arrows = "▶◀" if i == top else "◀▶" if i == bottom else "▼▲" if i < right else "▲▼"
        room = most // 2 - 5 if i in upright else most - wide - 4
        labels[i] = _label(topology, i, arrows, room)
    levels = [len(line) for i in (top, bottom) if i is not None for line in labels[i]]
    sides = [len(line) for i in upright for line in labels[i]]
    x_left = wide // 2
    x_right = x_left + max(max(levels) + wide + 4, 2 * max(sides, default=0) + 10, wide + 12)

    # The gap below a row is as high as the labels beside it.
    gaps = [2] * (right - 1)
    for i in upright:
        gap = rows[i] if i < right else rows[i] - 1
        gaps[gap] = max(gaps[gap], len(labels[i]))
    tops = [sum(gaps[:row]) + 3 * row for row in range(right)]

    for i, name in enumerate(names):
        _box(canvas, tops[rows[i]], x_right if 1 <= i <= right else x_left, wide, name)
    edges = range(x_left + wide - wide // 2, x_right - wide // 2)
    _level(canvas, 1, edges, "▶", labels[top], above=True)
    canvas.put(1, edges.start - 1, "├")
    if bottom is None:
        canvas.put(1, edges.start, "◀")
        return str(canvas)

    y = tops[-1] + 1
    canvas.put(y, edges.stop, "┤")
    if len(order) > 3:
        _level(canvas, y, edges, "◀", labels[bottom], above=False)
    else:
        # Nobody stands bottom left: the link turns up to the first node.
        _level(canvas, y, range(x_left, edges.stop), "╰", labels[bottom], above=False)
        canvas.down(x_left, range(BOX_HEIGHT, y))
        canvas.put(BOX_HEIGHT, x_left, "▲")
    for i in upright:
        if i < right:
            y, x = tops[rows[i]] + BOX_HEIGHT, x_right
            gap = range(y, tops[rows[i] + 1])
            canvas.down(x, gap)
            canvas.put(y - 1, x, "┬")
            canvas.put(gap.stop - 1, x, "▼")
        else:
            y, x = tops[rows[i]], x_left
            gap = range(tops[rows[i] - 1] + BOX_HEIGHT, y)
            line = range(tops[rows[(i + 1) % len(order)]] + BOX_HEIGHT, y)
            canvas.down(x, line)
            canvas.put(y, x, "┴")
            canvas.put(line.start, x, "▲")
        first = gap.start + (len(gap) - len(labels[i])) // 2
        for offset, text in enumerate(labels[i]):
            column = x + 3 if i >= right else x - 2 - max(map(len, labels[i]))
            canvas.put(first + offset, column, text)
    return str(canvas)


def _box(canvas: _Canvas, row: int, centre: int, width: int, name: str) -> None:
    left = centre - width // 2
    canvas.put(row, left, f"╭{'─' * (width - 2)}╮")
    canvas.put(row + 1, left, f"│{name:^{width - 2}}│")
    canvas.put(row + 2, left, f"╰{'─' * (width - 2)}╯")


def _level(canvas: _Canvas, row: int, columns: range, end: str, label: Sequence[str], above: bool) -> None:
    """A level line, its end to the right if above and to the left if below, with its label outside the ring."""
    canvas.put(row, columns.start, "─" * len(columns))
    canvas.put(row, columns.stop - 1 if above else columns.start, end)
    left = columns.start + (len(columns) - max(map(len, label))) // 2
    for offset, text in enumerate(label):
        canvas.put(row - len(label) + offset if above else row + 1 + offset, left, text)
