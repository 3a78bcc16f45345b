"""The contact plan of a topology file, for people and for scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesim.orbit.earth import LIGHT, Array
from edgesim.orbit.plan import Contacts, Plan, contact_plan
from edgesim.orbit.windows import Windows
from edgesim.topology.constellation import Constellation
from edgesim.topology.quantities import format_fraction, format_length, format_time

COLUMNS = (
    "kind",
    "source",
    "target",
    "start_s",
    "end_s",
    "duration_s",
    "start_utc",
    "end_utc",
    "range_min_km",
    "range_max_km",
    "delay_min_ms",
    "delay_max_ms",
    "elevation_max_deg",
)

MOST_ROWS = 24
"""of a table on the terminal"""


def plan_of(constellation: Constellation, pairs: Sequence[tuple[str, str]] | None) -> Plan:
    """Contacts of pairs of satellites (of the shells' "+grid" if not given) and of every satellite with every station.

    Pairs with a station among them are passed over. Raises ElementsError where SGP4 has no position.
    """
    sky = constellation.sky
    numbers = (
        constellation.grid()
        if pairs is None
        else [(sky.number(source), sky.number(target)) for source, target in pairs]
    )
    across = [pair for pair in numbers if max(pair) < sky.satellites]
    return contact_plan(sky, across, constellation.clearance, constellation.duration, constellation.step)


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """One for each contact and each eclipse, by COLUMNS: kind is inter-satellite, ground or eclipse.

    An eclipse has no target and no range; only contacts with the ground have an elevation.
    """
    for kind, contacts in (("inter-satellite", plan.cross), ("ground", plan.ground)):
        windows = contacts.windows
        for i, (row, start, end) in enumerate(_each(windows)):
            source, target = plan.sky.named(contacts.pairs[row])
            low, high = float(contacts.least_range[i]), float(contacts.greatest_range[i])
            elevation = contacts.greatest_elevation
            yield {
                **_times(plan, kind, source, target, start, end),
                "range_min_km": round(low / 1e3, 3),
                "range_max_km": round(high / 1e3, 3),
                "delay_min_ms": round(low / LIGHT * 1e3, 6),
                "delay_max_ms": round(high / LIGHT * 1e3, 6),
                "elevation_max_deg": None if elevation is None else round(float(np.degrees(elevation[i])), 3),
            }
    for row, start, end in _each(plan.eclipses):
        yield {**dict.fromkeys(COLUMNS), **_times(plan, "eclipse", plan.sky.names[row], None, start, end)}


def _each(windows: Windows) -> Iterator[tuple[int, float, float]]:
    return zip(windows.row.tolist(), windows.start.tolist(), windows.end.tolist(), strict=True)


def _times(plan: Plan, kind: str, source: str, target: str | None, start: float, end: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "source": source,
        "target": target,
        "start_s": start,
        "end_s": end,
        "duration_s": round(end - start, 3),
        "start_utc": _date(plan, start),
        "end_utc": _date(plan, end),
    }


def _date(plan: Plan, seconds: float) -> str:
    return f"{plan.sky.epoch.at(seconds).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def to_csv(plan: Plan) -> bytes:
    """The rows under a line of their names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(plan))
    return text.getvalue().encode()


def to_json(plan: Plan, name: str) -> dict[str, Any]:
    """Rows as in the table, with what they are rows of."""
    return {
        "name": name,
        "epoch": _date(plan, 0.0),
        "duration_s": plan.duration,
        "satellites": plan.sky.satellites,
        "stations": list(plan.sky.names[plan.sky.satellites :]),
        "contacts": list(rows(plan)),
    }


@dataclass(frozen=True)
class _Total:
    """What windows amount to."""

    starts: Array
    ends: Array
    duration: float

    @property
    def number(self) -> str:
        return str(len(self.starts))

    @property
    def share(self) -> str:
        return format_fraction(float((self.ends - self.starts).sum()) / self.duration)

    @property
    def longest(self) -> str:
        return format_time(float((self.ends - self.starts).max())) if len(self.starts) else "-"

    @property
    def gap(self) -> str:
        """The longest time without."""
        edges = [0.0, *(edge for one in zip(self.starts, self.ends, strict=True) for edge in one), self.duration]
        return format_time(float(max(after - before for before, after in list(pairwise(edges))[::2])))


def render(plan: Plan, name: str) -> RenderableType:
    """Tables of the links between satellites, of the stations and of the eclipses."""
    sky = plan.sky
    count, stations = sky.satellites, len(sky.stations)
    heading = (
        f"{name}: {count} satellite{'s' * (count != 1)}, {stations} ground station{'s' * (stations != 1)}; "
        f"{format_time(plan.duration)} from {sky.epoch.utc:%Y-%m-%d %H:%M:%S} UTC"
    )
    parts: list[RenderableType] = [Text(heading, style="bold")]
    if plan.cross.pairs:
        parts.append(_cross(plan))
    if stations:
        parts.append(_ground(plan))
    parts.append(_eclipses(plan))
    return Group(*parts)


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _cross(plan: Plan) -> Table:
    table = _table("between satellites", ("from", "to"), ("contacts", "share", "longest", "range", "delay"))
    for row, pair in enumerate(plan.cross.pairs[:MOST_ROWS]):
        total = _Total(*plan.cross.windows.of(row), plan.duration)
        here = slice(*np.searchsorted(plan.cross.windows.row, [row, row + 1]))
        table.add_row(*plan.sky.named(pair), total.number, total.share, total.longest, *_ranges(plan.cross, here))
    return _with_rest(table, len(plan.cross.pairs))


def _ground(plan: Plan) -> Table:
    """A row a station and satellite, or a row a station where that would be too many."""
    numbers = ("contacts", "share", "longest", "gap", "range", "delay", "elevation")
    count = plan.sky.satellites
    single = len(plan.ground.pairs) <= MOST_ROWS
    table = _table("with the ground", ("station", "satellite"), numbers)
    rows = plan.ground.windows.row
    step = 1 if single else count
    firsts = range(0, len(plan.ground.pairs), step)
    for first in firsts[:MOST_ROWS]:
        here = slice(*np.searchsorted(rows, [first, first + step]))
        starts, ends = _union(plan.ground.windows.start[here], plan.ground.windows.end[here])
        total = _Total(starts, ends, plan.duration)
        passes = plan.ground.windows.end[here] - plan.ground.windows.start[here]
        satellite, station = plan.sky.named(plan.ground.pairs[first])
        elevation = plan.ground.greatest_elevation
        assert elevation is not None
        table.add_row(
            station,
            satellite if single else f"any of {count}",
            str(len(passes)),
            total.share,
            format_time(float(passes.max())) if len(passes) else "-",
            total.gap,
            *_ranges(plan.ground, here),
            f"{np.degrees(elevation[here].max()):.1f} deg" if len(passes) else "-",
        )
    return _with_rest(table, len(firsts))


def _union(starts: Array, ends: Array) -> tuple[Array, Array]:
    """Intervals in any order, joined where they overlap."""
    order = np.argsort(starts, kind="stable")
    starts, latest = starts[order], np.maximum.accumulate(ends[order])
    apart = np.append(True, starts[1:] > latest[:-1])[: len(starts)]
    lasts = np.append(np.flatnonzero(apart)[1:] - 1, len(starts) - 1)[: int(apart.sum())]
    return starts[apart], latest[lasts]


def _eclipses(plan: Plan) -> Table:
    table = _table("in the Earth's shadow", ("satellite",), ("eclipses", "share", "longest"))
    for satellite in range(plan.sky.satellites)[:MOST_ROWS]:
        total = _Total(*plan.eclipses.of(satellite), plan.duration)
        table.add_row(plan.sky.names[satellite], total.number, total.share, total.longest)
    return _with_rest(table, plan.sky.satellites)


def _ranges(contacts: Contacts, here: slice) -> tuple[str, str]:
    """Range and delay of the windows, least to greatest."""
    low, high = contacts.least_range[here], contacts.greatest_range[here]
    if not len(low):
        return "-", "-"
    least, greatest = float(low.min()), float(high.max())
    if greatest - least < 1e3:
        return format_length(least), format_time(least / LIGHT)
    # Fewer digits than elsewhere: two numbers have to fit where otherwise is one.
    delays = f"{least / LIGHT * 1e3:.3g} to {greatest / LIGHT * 1e3:.3g} ms"
    return f"{least / 1e3:.0f} to {greatest / 1e3:.0f} km", delays


def _with_rest(table: Table, total: int) -> Table:
    if total > MOST_ROWS:
        table.caption = f"and {total - MOST_ROWS} more; --out FILE.csv has them all"
        table.caption_justify = "left"
    return table
