"""What Prometheus is told of a board."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from node_agent.daemon.slot import Slot
from node_agent.device.facts import version

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("idle", "staging", "ready", "running", "finished", "failed")


class _Board(Collector):
    def __init__(self, slot: Slot, began: float, certificate_ends: Callable[[], float | None]) -> None:
        self._slot, self._began, self._certificate_ends = slot, began, certificate_ends

    def describe(self) -> Iterator[Metric]:
        return iter(())  # nothing is collected when this is registered

    def collect(self) -> Iterator[Metric]:
        slot = self._slot
        versions = {name: version(name) or "" for name in ("edgesim", "python", "torch")}
        yield InfoMetricFamily("edgesim_build", "Versions", value=versions)
        yield _gauge("edgesim_uptime_seconds", "Time since the agent began", time.monotonic() - self._began)
        state = GaugeMetricFamily("edgesim_state", "1 for the state that the board is in", labels=["state"])
        for name in STATES:
            state.add_metric([name], float(name == slot.state))
        yield state
        jobs = CounterMetricFamily("edgesim_jobs", "Jobs that ended, by how", labels=["outcome"])
        for outcome, count in slot.outcomes.items():
            jobs.add_metric([outcome], count)
        yield jobs
        yield CounterMetricFamily("edgesim_uploaded_bytes", "Bytes of files that arrived", slot.uploaded_bytes)
        yield CounterMetricFamily("edgesim_events", "Events that jobs told", slot.told_events)
        if slot.current is not None and slot.current.active:
            left = max(0.0, slot.current.lease_left)
            yield _gauge("edgesim_lease_left_seconds", "Silence of the controller until the job is ended", left)
        if slot.running is not None and slot.current is not None and slot.current.process is not None:
            yield _gauge(
                "edgesim_job_memory_bytes", "Resident memory of the job's processes", slot.running.memory_bytes
            )
            cpu_s = slot.current.process.cpu_s()
            yield _gauge("edgesim_job_cpu_seconds", "CPU time of the job's processes that are there", cpu_s)
        ends = self._certificate_ends()
        if ends is not None:
            yield _gauge("edgesim_certificate_end_seconds", "End of the board's certificate, s since 1970", ends)


def registry(slot: Slot, began: float, certificate_ends: Callable[[], float | None]) -> CollectorRegistry:
    """`began` by the monotonic clock, s."""
    found = CollectorRegistry()
    found.register(_Board(slot, began, certificate_ends))
    return found


def page(registry: CollectorRegistry) -> bytes:
    """In Prometheus' text format."""
    return generate_latest(registry)


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value)
