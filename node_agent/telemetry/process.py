"""Samples of a node and of what it runs on, while it trains; and the energy that this takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node_agent import events
from node_agent.job import Job
from node_agent.telemetry import sources
from node_agent.telemetry.energy import Energy
from node_agent.telemetry.sources import Source

GAP = 5
"""intervals: the longest time between two samples over which power is interpolated"""
SHORTEST_GAP = 2.0
"""s; a sample that is so late on a busy machine is no gap"""

Open = Callable[[str, Path, float], tuple[list[Source], list[tuple[str, str]]]]


@dataclass(frozen=True)
class Used:
    """Energy of a run."""

    joules: float | None
    """None: power was not measured, or a virtual clock's time is none of the host's"""
    source: str | None
    """of which power this is the integral, and what read it"""
    unmeasured_s: float
    """of the time on the host, in which no power is known: left out of `joules`"""


class Telemetry:
    """Samples while the `with` block runs, from its beginning to its end. The `energy` is known afterwards.

    A source that fails is told of once, and left out from then on.
    """

    def __init__(self, job: Job, emit: events.Emit, open_sources: Open = sources.open_sources) -> None:
        self._job = job
        self._emit = emit
        self._open = open_sources
        self._sources: list[Source] = []
        self._energy = Energy(max(GAP * job.telemetry_interval, SHORTEST_GAP))
        self._power_source: str | None = None
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self.energy = Used(None, None, 0.0)

    def __enter__(self) -> Telemetry:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        job = self._job
        try:
            self._sources, failed = self._open(job.interface, Path.cwd(), job.telemetry_interval)
            self._sample()
            self._emit(self._sensors())
            for name, why in failed:
                self._lost(name, why)
            ending = False
            while not ending:
                ending = self._stop.wait(job.telemetry_interval)
                self._sample()
        finally:
            for source in self._sources:
                source.close()

    def _sensors(self) -> events.Sensors:
        found = {one.subject: one.detail for one in sources.describe() if one.found}
        return events.Sensors(self._job.rank, self._job.node, sources.machine(), found)

    def _sample(self) -> None:
        found: dict[str, Any] = {}
        for source in list(self._sources):
            for name, value in self._read(source).items():
                if found.get(name) is None:
                    found[name] = value
        now = time.monotonic() - self._began
        counted = found.pop("counted_j", None)
        self._integrate(now, found.get("power_source"), found.get("total_w"), counted)
        self._emit(
            events.Telemetry(
                self._job.rank,
                self._job.node,
                now,
                **found,
                energy_j=self.energy.joules,
                energy_unmeasured_s=self.energy.unmeasured_s if self.energy.joules is not None else None,
            )
        )

    def _integrate(self, now: float, source: str | None, watts: float | None, counted: float | None) -> None:
        if self._job.clock == "virtual":
            return
        self._power_source = self._power_source or source
        if source is not None and source == self._power_source:  # of another's power it would be the sum of two things
            if counted is not None:
                self._energy.count(now, counted)
            elif watts is not None:
                self._energy.sample(now, watts)
        joules, unmeasured = self._energy.until(now)
        if joules is not None:
            self.energy = Used(joules, self._power_source, unmeasured)

    def _read(self, source: Source) -> dict[str, Any]:
        try:
            return source.read()
        except Exception as error:  # whatever it was: it is told, and training is not its victim
            self._sources.remove(source)
            self._lost(source.name, f"{type(error).__name__}: {error}")
            source.close()
            return {}

    def _lost(self, sensor: str, error: str) -> None:
        elapsed = time.monotonic() - self._began
        self._emit(events.SensorLost(self._job.rank, self._job.node, elapsed, sensor, error))
