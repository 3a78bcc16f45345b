"""Which sources of telemetry there are on this machine, and what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from node_agent.telemetry import board, files, tegrastats_program
from node_agent.telemetry.host import Disk, Memory, Network, Process, Processors
from node_agent.telemetry.ina import Rails
from node_agent.telemetry.jetson import Gpu, MemoryClock, PowerMode
from node_agent.telemetry.rapl import Rapl
from node_agent.telemetry.tegrastats_program import Tegrastats
from node_agent.telemetry.thermal import Temperatures

ROOT = Path("/")
POWER = "power"


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def read(self) -> dict[str, Any]:
        """Fields of `events.Telemetry`, None where one is not known now; and `counted_j`, what a meter of energy has
        counted since the last call. May raise: then the source is of no more use."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Described:
    subject: str
    found: bool
    detail: str
    """one line, for people"""


def open_sources(
    interface: str, folder: Path, interval: float, root: Path = ROOT
) -> tuple[list[Source], list[tuple[str, str]]]:
    """The sources that there are, the better first, and of those that could not be opened the name and why.

    Args:
        interface: whose bytes are counted.
        folder: whose free space is told.
        interval: s between samples.
        root: below which the kernel's files are.
    """
    of = board.identify(root)
    rails, gpu = Rails(root, of), Gpu(root)
    sources: list[Source] = [Process(), Processors(root), Memory(), Network(interface), Disk(root, folder)]
    sources += [Temperatures(root), gpu, MemoryClock(root), PowerMode(root)]
    sources += [rails] if rails.rails else []
    failed = []
    program = tegrastats_program.find(root) if _wanting(of, rails, gpu) else None
    if program is not None:
        try:
            sources.append(Tegrastats(program, interval))
        except OSError as error:
            failed.append((tegrastats_program.BY, error.strerror or str(error)))
    rapl = Rapl(root)
    sources += [rapl] if of is None and rapl.total else []
    return sources, failed


def _wanting(of: board.Board | None, rails: Rails, gpu: Gpu) -> bool:
    """Whether this is a board whose files leave open what another program might tell."""
    return of is not None and (rails.total is None or gpu.load is None)


def describe(root: Path = ROOT) -> list[Described]:
    """What is measured on this machine, and what its total power is by definition."""
    of = board.identify(root)
    rails, gpu = Rails(root, of), Gpu(root)
    program = tegrastats_program.find(root)
    used = program is not None and _wanting(of, rails, gpu)
    return [
        Described("board", of is not None, str(of) if of else "not a Jetson"),
        *_power(root, of, rails, used),
        _temperatures(root),
        *(_of_board(root, gpu, used) if of is not None else ()),
        *([_tegrastats(program, used)] if of is not None else []),
    ]


def _power(root: Path, of: board.Board | None, rails: Rails, used: bool) -> Iterator[Described]:
    rapl = Rapl(root)
    if rails.total is not None:
        besides = [rail for rail in rails.rails if rail not in rails.total.split(" by ")[0].split(" + ")]
        also = f"; besides: {', '.join(besides)}" if besides else ""
        yield Described(POWER, True, f"total is {rails.total}{also}")
    elif used:
        yield Described(POWER, True, f"total as far as {tegrastats_program.BY} tells it: {_why_not(rails)}")
    elif of is None and rapl.total is not None:
        yield Described(POWER, True, f"total is {rapl.total}: other processes' energy is in it")
    elif of is None and rapl.hidden:
        yield Described(POWER, False, f"no energy is measured: {rapl.name} is for root to read")
    else:
        yield Described(POWER, False, f"no energy is measured: {_why_not(rails)}")


def _why_not(rails: Rails) -> str:
    if rails.hidden:
        return f"this user may not read {', '.join(rails.hidden)}"
    if rails.rails:
        return f"of {', '.join(rails.rails)} no total is known"
    return "no power rails"


def _temperatures(root: Path) -> Described:
    found = Temperatures(root).read()["temperatures_c"] or {}
    return Described("temperatures", bool(found), ", ".join(found) or "none")


def _of_board(root: Path, gpu: Gpu, used: bool) -> Iterator[Described]:
    parts = {"load": gpu.load, "clock": gpu.clock}
    there = [name for name, path in parts.items() if path is not None]
    by = f" (load by {tegrastats_program.BY})" if used and gpu.load is None else ""
    yield Described(gpu.name, bool(there) or used, (" and ".join(there) or "in no file that may be read") + by)
    clock = MemoryClock(root).clock
    yield Described(MemoryClock.name, clock is not None, str(clock) if clock else "in no file that this user may read")
    mode = PowerMode(root).mode
    yield Described(PowerMode.name, mode is not None, mode or "nvpmodel has left none")


def _tegrastats(program: Path | None, used: bool) -> Described:
    if program is None:
        return Described(tegrastats_program.BY, False, "not installed")
    return Described(tegrastats_program.BY, True, f"{program}, {'used' if used else 'not needed'}")


def machine(root: Path = ROOT) -> str | None:
    """What processes of one running system have in common, whatever their namespaces, and no others; None: not told."""
    return files.text(root / "proc/sys/kernel/random/boot_id")
