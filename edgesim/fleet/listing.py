"""The enrolled boards, for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgesim.fleet.authority import EnrolledBoard
from node_agent.security.certificates import shown_time


def entries(boards: Sequence[EnrolledBoard]) -> list[dict[str, Any]]:
    """One entry per board: name, address, serial (hexadecimal), ends (ISO 8601), left_s (negative: it has ended)."""
    return [{**board.model_dump(mode="json"), "left_s": round(board.left.total_seconds())} for board in boards]


def render(boards: Sequence[EnrolledBoard]) -> RenderableType:
    table = Table("board", "address", "certificate ends", "left", box=None, pad_edge=False)
    for board in boards:
        table.add_row(board.name, board.address, shown_time(board.ends), _left(board))
    return table


def _left(board: EnrolledBoard) -> Text:
    seconds = board.left.total_seconds()
    if seconds <= 0:
        return Text("expired: enroll again", "red")
    left = f"{seconds / 86400:.0f} d" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} h"
    return Text(f"{left}: due, edgesim fleet renew", "yellow") if board.due else Text(left)
