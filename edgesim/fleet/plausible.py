"""What a node may tell of itself, as far as the run's results depend on it: a board is another machine."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from edgesim.fleet.client import printable
from node_agent.events import (
    ClockOffset,
    Event,
    Fault,
    Finished,
    Observation,
    Paused,
    Probed,
    Started,
    Step,
    Telemetry,
    Waiting,
)
from node_agent.job import Job

COUNTS = ("parameters", "pixels", "bands_kept", "non_finite", "negative", "empty_pixels")
"""facts that the summary counts with"""


class Implausible(ValueError):
    """What no node of this run tells. One line."""


class Listener:
    """Knows what one node has told so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.step = 0
        """the last one that it has told of"""
        self._observed: list[int] = []
        """steps after which it has told its maps"""
        self._maps: dict[str, tuple[int, ...]] | None = None
        self._finished = False

    def __call__(self, event: Event) -> Event:
        """The event as it is to be taken. Raises Implausible."""
        job, kind = self.job, type(event).__name__.lower()
        if (event.rank, event.node) != (job.rank, job.node):
            told = printable(f"{event.node} (rank {event.rank})", 80)
            raise Implausible(f"{kind}: found {told}, allowed {job.node} (rank {job.rank})")
        if self._finished and isinstance(event, Probed | Started | Step | Observation | Finished):
            raise Implausible(f"{kind}: found after the node had finished")
        if not isinstance(event, Fault | Observation):  # the one is of many lines, the other's names are known
            for name, value in vars(event).items():
                _texts(f"{kind}.{name}", value)
        if isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Observation):
            self._observation(event)
        elif isinstance(event, Started):
            self._facts(event.facts)
            _count("started.dense_step_bytes", event.dense_step_bytes)
            _counts("started.sent", asdict(event.sent))
        elif isinstance(event, Probed):
            _equal("probed.link", event.link, job.incoming.name if job.incoming else None)
            _counts("probed.sent", asdict(event.sent))
        elif isinstance(event, Waiting):
            _equal("waiting.link", event.link, job.outgoing.name if job.outgoing else None)
        elif isinstance(event, ClockOffset):
            _equal("clockoffset.neighbour", event.neighbour, job.outgoing.target if job.outgoing else None)
        elif isinstance(event, Paused):
            _time("paused.seconds", event.seconds)
        elif isinstance(event, Telemetry):
            return _sample(event)
        elif isinstance(event, Finished):
            self._finish(event)
        elif isinstance(event, Fault):
            self._finished = True
        return event

    def _step(self, event: Step) -> None:
        _equal("step.step", event.step, self.step + 1)
        if event.step > self.job.steps:
            raise Implausible(f"step.step: found {event.step}, allowed at most {self.job.steps}")
        self.step = event.step
        for place, value in (("time_s", event.time_s), ("duration_s", event.duration_s)):
            _time(f"step.{place}", value)
        for part, value in asdict(event.parts).items():
            _time(f"step.parts.{part}", value, least=-math.inf)
        _counts("step.sent", asdict(event.sent))
        counts = {name: getattr(event, name) for name in ("values_sent", "fingerprint", "formula_bytes")}
        _counts("step", counts)
        _counts("step.received", {"delay_samples": event.received.delay_samples})

    def _observation(self, event: Observation) -> None:
        least = self._observed[-1] + 1 if self._observed else 0
        if not least <= event.step <= self.job.steps:
            raise Implausible(f"observation.step: found {event.step}, allowed {least} to {self.job.steps}")
        self._observed.append(event.step)
        _time("observation.time_s", event.time_s)
        shapes = {name: array.shape for name, array in event.arrays.items()}
        self._maps = self._maps or self._expected()
        if shapes != self._maps:
            found, allowed = (", ".join(f"{k} {v}" for k, v in one.items()) or "none" for one in (shapes, self._maps))
            raise Implausible(f"observation.arrays: found {printable(found)}, allowed {allowed}")
        for name, array in event.arrays.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise Implausible(f"observation.arrays.{name}: found {array.dtype}, allowed finite float32 values")

    def _expected(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of a node's maps: those of its strip."""
        workload = self.job.workload
        if workload is None:
            return {}
        samples = workload.scene.shape[1]  # type: ignore[union-attr]
        strip = (workload.lines[1] - workload.lines[0], samples)
        return {"residual": strip, "coarse": strip}

    def _facts(self, facts: dict[str, Any]) -> None:
        for name in COUNTS:
            if name in facts:
                _count(f"started.facts.{name}", facts[name])
        bands = facts.get("bands_dropped", [])
        if not isinstance(bands, list) or not all(type(band) is int for band in bands):
            raise Implausible("started.facts.bands_dropped: found something else, allowed a list of whole numbers")
        if self.job.workload is not None and not {"bands_dropped", *COUNTS} <= facts.keys():
            missing = min({"bands_dropped", *COUNTS} - facts.keys())
            raise Implausible(f"started.facts.{missing}: found nothing, allowed a number")

    def _finish(self, event: Finished) -> None:
        self._finished = True
        _time("finished.time_s", event.time_s)
        _counts("finished", {"parameters": event.parameters})
        if self.job.workload is not None:
            _equal("finished.steps", (event.steps, self.step), (self.job.steps, self.job.steps))
            if len(event.params_sha256) != 64 or not set(event.params_sha256) <= set("0123456789abcdef"):
                raise Implausible("finished.params_sha256: found no SHA-256, allowed 64 hexadecimal digits")
            for step in (0, self.job.steps):
                if step not in self._observed:
                    raise Implausible(f"finished: found no maps of step {step}, allowed after the first and the last")


def _sample(event: Telemetry) -> Telemetry:
    """Without readings that are no numbers: sensors give such now and then, and every reading may be missing."""
    _time("telemetry.host_s", event.host_s)
    kept: dict[str, Any] = {}
    for name, value in asdict(event).items():
        if isinstance(value, int) and not isinstance(value, bool):
            _count(f"telemetry.{name}", value)
        elif isinstance(value, float) and not math.isfinite(value):
            kept[name] = None
        elif isinstance(value, dict):
            kept[name] = {key: reading for key, reading in value.items() if math.isfinite(reading)}
    return replace(event, **kept)


def _texts(place: str, value: Any) -> None:
    """All text inside goes on one line."""
    if isinstance(value, str) and not value.isprintable():
        raise Implausible(f"{place}: found {printable(value, 80)!r}, allowed text of one line")
    if isinstance(value, dict):
        for name, inner in value.items():
            _texts(place, name)
            _texts(f"{place}.{name}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _texts(place, inner)


def _equal(place: str, found: Any, allowed: Any) -> None:
    if found != allowed:
        raise Implausible(f"{place}: found {printable(str(found), 80)}, allowed {allowed}")


def _counts(place: str, values: dict[str, Any]) -> None:
    """Whole numbers where the name says so, else times; neither below 0."""
    for name, value in values.items():
        if name.endswith("_s"):
            _time(f"{place}.{name}", value)
        else:
            _count(f"{place}.{name}", value)


def _count(place: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value < 2**64:
        raise Implausible(f"{place}: found {printable(str(value), 40)}, allowed a whole number of at least 0")


def _time(place: str, value: float, least: float = 0.0) -> None:
    if not math.isfinite(value) or value < least:
        raise Implausible(f"{place}: found {value:g}, allowed a time")
