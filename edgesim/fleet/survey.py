"""How all boards are: asked at once, for people and for scripts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesim.fleet.authority import DUE
from edgesim.fleet.client import BoardClient, BoardError, printable
from edgesim.fleet.everywhere import everywhere
from edgesim.fleet.handshake import WITHIN, Met, meet

CLOSE = 0.1
"""s by which clocks may differ without being pointed at"""


@dataclass(frozen=True)
class Entry:
    """A board, as it answered or did not."""

    name: str
    address: str
    met: Met | None
    problem: str | None
    """why it did not"""

    def as_json(self) -> dict[str, Any]:
        """In SI units."""
        found: dict[str, Any] = {"name": self.name, "address": self.address, "error": self.problem}
        if self.met is None:
            return {**found, "state": None}
        health, board = self.met.health, self.met.board
        job = health.job
        return {
            **found,
            "state": health.state,
            "run": job.run if job else None,
            "owner": job.owner if job else None,
            "lease_left_s": job.lease_left_s if job else None,
            "job_error": job.error if job else None,
            "load": health.load,
            "cores": board.cores,
            "memory_bytes": board.memory_bytes,
            "disk_free_bytes": board.disk_free_bytes,
            "model": board.model,
            "machine": board.machine,
            "data_address": board.address,
            "power_mode": board.power_mode,
            "versions": dict(board.versions),
            "uptime_s": health.uptime_s,
            "certificate_ends_s": health.certificate_ends_s,
            "certificate_left_s": _left(self.met),
            "offset_s": self.met.offset_s,
            "round_trip_s": self.met.round_trip_s,
        }


def survey(clients: Sequence[BoardClient]) -> list[Entry]:
    """Of each board, in their order."""
    entries = []
    for client, found in zip(clients, everywhere(clients, meet, WITHIN), strict=True):
        if isinstance(found, Exception) and not isinstance(found, BoardError | TimeoutError):
            raise found
        met = found if isinstance(found, Met) else None
        problem = found.message if isinstance(found, BoardError) else str(found) if met is None else None
        entries.append(Entry(client.name, str(client.address), met, problem))
    return entries


def render(entries: Sequence[Entry]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("board", "state", "run of owner", "versions", "load", "cert.", "clock"):
        right = column in ("load", "cert.", "clock")
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for entry in entries:
        if entry.met is not None:
            table.add_row(entry.name, *_cells(entry.met))
    parts: list[RenderableType] = [table] if any(entry.met for entry in entries) else []
    for entry in entries:
        job = entry.met.health.job if entry.met else None
        if entry.met is None:
            parts.append(Text(f"{entry.name}: {entry.problem}", "red"))
        elif job is not None and job.error:
            parts.append(Text(f"{entry.name}: its last job: {printable(job.error)}"))
    if any(entry.met for entry in entries):
        parts.append(Text("versions: edgesim, torch; load: for each core; clock: the board's minus this one's", "dim"))
    return Group(*parts)


def _cells(met: Met) -> list[Text]:
    health, versions = met.health, met.board.versions
    job = health.job
    state = Text(health.state, {"idle": "green", "failed": "red"}.get(health.state, "yellow"))
    ahead = Text(_rough(met.offset_s))
    if abs(met.offset_s) > max(CLOSE, met.round_trip_s):
        ahead.stylize("yellow")
    return [
        state,
        Text(f"{printable(job.run, 40)} of {printable(job.owner, 40)}" if job else ""),
        Text(", ".join(printable(versions.get(name) or "-", 16) for name in ("edgesim", "torch"))),
        Text("" if health.load is None else f"{health.load / max(1, met.board.cores):.1f}"),
        _certificate(_left(met)),
        ahead,
    ]


def _rough(seconds: float) -> str:
    if abs(seconds) < 100:
        return f"{seconds:+.3f} s"
    return f"{seconds / 3600:+.1f} h" if abs(seconds) < 2 * 86400 else f"{seconds / 86400:+.0f} d"


def _left(met: Met) -> float | None:
    ends = met.health.certificate_ends_s
    return None if ends is None else ends - time.time()


def _certificate(left: float | None) -> Text:
    if left is None:
        return Text("none")
    if left <= 0:
        return Text("ended", "red")
    return Text(
        f"{left / 86400:.0f} d" if left > 2 * 86400 else f"{left / 3600:.0f} h",
        "yellow" if left < DUE.total_seconds() else "",
    )
