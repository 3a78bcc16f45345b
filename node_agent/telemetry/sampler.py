"""Samples of a node and of what it runs on, while it trains; and the energy that this takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node_agent import events
from node_agent.job import Job
from node_agent.telemetry import sources
from node_agent.telemetry.energy import Energy
from node_agent.telemetry.sources import Opened, Source

GAP = 5
"""intervals: the longest time between two samples over which power is interpolated; and how often in a row a sensor
fails before it counts as lost"""
SHORTEST_GAP = 2.0
"""s; a sample that is so late on a busy machine is no gap"""
ITSELF = "telemetry"

Open = Callable[[str, Path, float], Opened]


@dataclass(frozen=True)
class Used:
    """Energy of a run."""

    joules: float | None
    """None: power was not measured, or a virtual clock's time is none of the host's"""
    source: str | None
    """of which power this is the integral, and what read it"""
    unmeasured_s: float
    """of the time on the host, in which no power is known: left out of `joules`"""


class Sampler:
    """Samples while the `with` block runs, from its beginning to its end. The `energy` is known afterwards.

    A sensor that fails is asked again at the next sample. It is told of once it has failed `GAP` times in a row, or if
    it did at the last sample. Training goes on whatever fails here; what is not known of its energy is in
    `energy.unmeasured_s`.
    """

    def __init__(self, job: Job, emit: events.Emit, open_sources: Open = sources.open_sources) -> None:
        self._job = job
        self._emit = emit
        self._open = open_sources
        self._energy = Energy(max(GAP * job.telemetry_interval, SHORTEST_GAP))
        self._power_source: str | None = None
        self._failing: dict[str, tuple[int, Exception]] = {}
        self._began = 0.0
        self._complete = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=ITSELF, daemon=True)
        self.energy = Used(None, None, 0.0)

    def __enter__(self) -> Sampler:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self._complete:
            self._settle(self._elapsed())

    def _run(self) -> None:
        try:
            opened = self._open(self._job.interface, Path.cwd(), self._job.telemetry_interval)
            try:
                self._sample_until_stopped(opened)
            finally:
                for source in opened.sources:
                    source.close()
        except Exception as error:  # whatever it was: it is told, and training is not its victim
            self._lost(ITSELF, _described(error))

    def _sample_until_stopped(self, opened: Opened) -> None:
        job = self._job
        self._sample(opened.sources)
        found = {one.subject: one.detail for one in opened.measurable if one.found}
        self._emit(events.Sensors(job.rank, job.node, opened.machine, found))
        for name, why in opened.failed:
            self._lost(name, why)
        while not self._stop.wait(job.telemetry_interval):
            self._sample(opened.sources)
        self._sample(opened.sources)
        self._complete = True
        for name, (count, error) in self._failing.items():
            if count < GAP:  # else it has been told
                self._lost(name, _described(error))

    def _sample(self, asked: list[Source]) -> None:
        found: dict[str, Any] = {}
        failures: dict[str, Exception] = {}
        for source in asked:
            try:
                fields = source.read()
            except Exception as error:  # as above
                failures[source.name] = error
                continue
            failures |= fields.pop("failures", {})
            for name, value in fields.items():
                if found.get(name) is None:
                    found[name] = value
        now = self._elapsed()
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
        self._count(failures)

    def _integrate(self, now: float, source: str | None, watts: float | None, counted: float | None) -> None:
        if self._job.clock == "virtual":
            return
        self._power_source = self._power_source or source
        if source is not None and source == self._power_source:  # of another's power it would be the sum of two things
            if counted is not None:
                self._energy.count(now, counted)
            elif watts is not None:
                self._energy.sample(now, watts)
        self._settle(now)

    def _settle(self, now: float) -> None:
        joules, unmeasured = self._energy.until(now)
        if joules is not None:
            self.energy = Used(joules, self._power_source, unmeasured)

    def _count(self, failures: Mapping[str, Exception]) -> None:
        before, self._failing = self._failing, {}
        for name, error in failures.items():
            count = before[name][0] + 1 if name in before else 1
            self._failing[name] = count, error
            if count == GAP:
                self._lost(name, _described(error))

    def _lost(self, sensor: str, error: str) -> None:
        self._emit(events.SensorLost(self._job.rank, self._job.node, self._elapsed(), sensor, error))

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
