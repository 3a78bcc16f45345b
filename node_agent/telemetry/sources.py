"""Which sources of telemetry there are on this machine, and what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from node_agent.telemetry import host, jetson, tegrastats_program
from node_agent.telemetry.host import Disk, Memory, Network, Process, Processors
from node_agent.telemetry.jetson import Gpu, MemoryClock, PowerMode, Temperatures
from node_agent.telemetry.rails import Rails
from node_agent.telemetry.rapl import Rapl
from node_agent.telemetry.tegrastats_program import Tegrastats

ROOT = Path("/")
BOARD = "board"
POWER = "power"


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def read(self) -> dict[str, Any]:
        """Fields of `events.Telemetry`, None where one is not known now; `counted_j`, what a meter of energy has
        counted since the last call; and `failures`, the errors of parts of the source, by the part's name. May raise
        whatever it is that keeps it from answering now."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Measurable:
    """Something that may be measured, or what tells how it is."""

    subject: str
    found: bool
    detail: str
    """one line, for people"""


@dataclass(frozen=True)
class Opened:
    """What a node samples, and what it is."""

    sources: list[Source]
    """the better first"""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """name of each that could not be opened, and why"""
    measurable: list[Measurable] = field(default_factory=list)
    machine: str | None = None
    """boot ID"""


class _Found:
    """What there is below `root`."""

    def __init__(self, root: Path) -> None:
        self.board = jetson.identify(root)
        self.rails, self.gpu, self.clock = Rails(root, self.board), Gpu(root), MemoryClock(root)
        self.temperatures, self.mode, self.rapl = Temperatures(root), PowerMode(root), Rapl(root)
        self.program = tegrastats_program.find(root)

    @property
    def wanted(self) -> Path | None:
        """The program, on a board whose files leave open what it might tell."""
        return self.program if self.board is not None and (self.rails.total is None or self.gpu.load is None) else None


def open_sources(interface: str, folder: Path, interval: float, root: Path = ROOT) -> Opened:
    """Open what there is.

    Args:
        interface: whose bytes are counted.
        folder: whose free space is told.
        interval: s between samples.
        root: below which the kernel's files are.
    """
    found = _Found(root)
    sources: list[Source] = [Process(), Processors(root), Memory(), Network(interface), Disk(root, folder)]
    sources += [found.temperatures, found.gpu, found.clock, found.mode]
    sources += [found.rails] if found.rails.rails else []
    failure = None
    if found.wanted is not None:
        try:
            sources.append(Tegrastats(found.wanted, interval))
        except OSError as error:
            failure = error.strerror or str(error)
    sources += [found.rapl] if found.board is None and found.rapl.total else []
    failed = [] if failure is None else [(tegrastats_program.BY, failure)]
    return Opened(sources, failed, list(_describe(found, failure)), host.boot_id(root))


def describe(root: Path = ROOT) -> list[Measurable]:
    """What is measured on this machine, and what its total power is by definition."""
    return list(_describe(_Found(root)))


def _describe(found: _Found, failure: str | None = None) -> Iterator[Measurable]:
    """`failure`: why the program could not be started."""
    used = found.wanted is not None and failure is None
    yield Measurable(BOARD, found.board is not None, str(found.board) if found.board else "not a Jetson")
    yield _power(found, used)
    zones = found.temperatures.read()["temperatures_c"] or {}
    yield Measurable(Temperatures.name, bool(zones), ", ".join(zones) or "none")
    if found.board is not None:
        yield _gpu(found.gpu, used)
        clock, mode = found.clock.clock, found.mode.mode
        yield Measurable(MemoryClock.name, clock is not None, str(clock or "in no file that this user may read"))
        yield Measurable(PowerMode.name, mode is not None, mode or "nvpmodel has left none")
        yield _tegrastats(found, failure)


def _power(found: _Found, used: bool) -> Measurable:
    rails, rapl = found.rails, found.rapl
    if rails.parts is not None:
        besides = [rail for rail in rails.rails if rail not in rails.parts]
        also = f"; besides: {', '.join(besides)}" if besides else ""
        return Measurable(POWER, True, f"total is {rails.total}{also}")
    if used:
        return Measurable(POWER, True, f"total as far as {tegrastats_program.BY} tells it: {_why_not(rails)}")
    if found.board is None and rapl.total is not None:
        return Measurable(POWER, True, f"total is {rapl.total}: other processes' energy is in it")
    if found.board is None and rapl.hidden:
        return Measurable(POWER, False, f"no energy is measured: {rapl.name} is for root to read")
    return Measurable(POWER, False, f"no energy is measured: {_why_not(rails)}")


def _why_not(rails: Rails) -> str:
    if rails.hidden:
        return f"this user may not read {', '.join(rails.hidden)}"
    if rails.rails:
        return f"of {', '.join(rails.rails)} no total is known"
    return "no power rails"


def _gpu(gpu: Gpu, used: bool) -> Measurable:
    parts = {"load": gpu.load, "clock": gpu.clock}
    there = [name for name, path in parts.items() if path is not None]
    by = f" (load by {tegrastats_program.BY})" if used and gpu.load is None else ""
    return Measurable(gpu.name, bool(there) or used, (" and ".join(there) or "in no file that may be read") + by)


def _tegrastats(found: _Found, failure: str | None) -> Measurable:
    if found.program is None:
        return Measurable(tegrastats_program.BY, False, "not installed")
    if failure is not None:
        return Measurable(tegrastats_program.BY, False, f"{found.program}: {failure}")
    return Measurable(tegrastats_program.BY, True, f"{found.program}, {'used' if found.wanted else 'not needed'}")
