"""What a controller wants to know of its boards before it uses them, and what it refuses."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgesim.fleet.base import FleetError
from edgesim.fleet.client import BoardClient, BoardError, printable
from edgesim.fleet.everywhere import everywhere
from edgesim.host import versions
from edgesim.topology.quantities import format_bytes
from node_agent.daemon.api import Board, Health

ROUNDS = 5
"""health calls by which clocks are compared"""

WITHIN = 30.0
"""s for all that is asked of a board here"""

COMPARED = ("edgesim", "torch")


@dataclass(frozen=True)
class Met:
    """A board as it presented itself."""

    client: BoardClient
    health: Health
    board: Board
    offset_s: float
    """its real-time clock minus the controller's, and"""
    round_trip_s: float
    """the least time of a question and its answer: twice as much as the offset may be wrong by"""

    @property
    def name(self) -> str:
        return self.client.name

    def described(self) -> dict[str, Any]:
        """For a run's configuration."""
        board = self.board
        return {
            "board": board.name,
            "address": str(self.client.address),
            "data_address": board.address,
            "interface": board.interface,
            "model": board.model,
            "machine": board.machine,
            "cores": board.cores,
            "memory_bytes": board.memory_bytes,
            "power_mode": board.power_mode,
            "versions": dict(board.versions),
            "offset_s": self.offset_s,
            "round_trip_s": self.round_trip_s,
        }


def meet(client: BoardClient) -> Met:
    """Ask a board who it is, and compare its clock. Raises BoardError."""
    seen = [_health(client) for _ in range(ROUNDS)]
    _, offset, round_trip = min(seen, key=lambda one: one[2])
    return Met(client, seen[-1][0], client.board(), offset, round_trip)


def _health(client: BoardClient) -> tuple[Health, float, float]:
    began, clock = time.monotonic(), time.time()
    health = client.health()
    round_trip = time.monotonic() - began
    # If the question took as long as the answer (RFC 5905, section 8).
    return health, health.time_s - (clock + round_trip / 2), round_trip


def meet_all(clients: Sequence[BoardClient]) -> list[Met]:
    """All boards, asked at the same time. Raises FleetError that names every one that does not answer as it should."""
    met: list[Met] = []
    problems: list[str] = []
    for client, found in zip(clients, everywhere(clients, meet, WITHIN), strict=True):
        if isinstance(found, Met):
            met.append(found)
        elif isinstance(found, BoardError):
            problems.append(str(found))
        elif isinstance(found, TimeoutError):
            problems.append(f"{client.name}: did not present itself within {WITHIN:g} s")
        else:
            raise found
    if problems:
        first = f"{len(problems)} of {len(clients)} boards cannot be used"
        raise FleetError(problems[0] if len(problems) == 1 else "\n  ".join((f"{first}:", *problems)))
    return met


def differences(boards: Sequence[Met]) -> str | None:
    """What of their versions does not fit together, with the table of who has what; None if nothing."""
    own = versions()["edgesim"]
    torches = {_minor(met.board.versions.get("torch")) for met in boards}
    edgesims = {met.board.versions.get("edgesim") for met in boards} | {own}
    wrong = []
    if len(edgesims) > 1:
        wrong.append("the version of edgesim")
    if len(torches) > 1:
        wrong.append("that of torch (the first two numbers count)" if wrong else "the version of torch")
    if not wrong:
        return None
    rows: list[tuple[str, ...]] = [("", *COMPARED), ("this machine", own or "-", "(trains nothing)")]
    rows += [(met.name, *(printable(met.board.versions.get(name) or "-", 24) for name in COMPARED)) for met in boards]
    return f"boards and controller differ in {' and '.join(wrong)}\n{_table(rows)}"


def _minor(version: str | None) -> str | None:
    return None if version is None else ".".join(version.split("+")[0].split(".")[:2])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def unusable(boards: Sequence[Met], needed: Sequence[int]) -> list[str]:
    """Why these boards cannot make a run, a line each: `needed` are the bytes that each will be sent."""
    return [*_without_torch(boards), *_without_a_way(boards), *_without_room(boards, needed)]


def _without_torch(boards: Sequence[Met]) -> list[str]:
    missing = []
    for met in boards:
        found = met.board.versions
        if found.get("torch") is None:
            missing.append(f"{met.name}: torch is not installed there")
        elif "torch.distributed" in found and found["torch.distributed"] is None:
            missing.append(f"{met.name}: its torch {printable(found['torch'] or '', 24)} has no torch.distributed")
    return missing


def _without_a_way(boards: Sequence[Met]) -> list[str]:
    """Boards meet at the addresses of their data interfaces. Agents of one host may share one."""
    problems = []
    hosts = {met.board.boot for met in boards}
    where: dict[str, Met] = {}
    for met in boards:
        address = met.board.address
        try:
            loopback = ipaddress.ip_address(address).is_loopback
        except ValueError:
            problems.append(f"{met.name}: data plane: found {printable(address, 40)!r}, allowed an IP address")
            continue
        first = where.setdefault(address, met)
        if loopback and len(hosts) > 1:
            interface = printable(met.board.interface, 20)
            problems.append(
                f"{met.name}: data plane: found {address} of {interface}, allowed an address that other boards reach "
                "(`interface` in its agent.yaml)"
            )
        elif first.board.boot != met.board.boot:
            problems.append(
                f"{met.name}: data plane: found {address}, which is that of {first.name} too, allowed an address of "
                "its own (`interface` in its agent.yaml)"
            )
    return problems


def _without_room(boards: Sequence[Met], needed: Sequence[int]) -> list[str]:
    problems = []
    for met, octets in zip(boards, needed, strict=True):
        board = met.board
        disk = min(board.disk_free_bytes, board.disk_limit_bytes)
        memory = min(board.memory_bytes, board.memory_limit_bytes or board.memory_bytes)
        for what, there in (("disk", disk), ("memory", memory)):
            if octets > there:
                problems.append(
                    f"{met.name}: {what}: found room for {format_bytes(there)}, needed at least {format_bytes(octets)} "
                    "for its strip of the scene"
                )
    return problems
