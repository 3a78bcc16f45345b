"""CPU and memory of the training process, from the operating system's own account of it."""

from __future__ import annotations

import threading
import time

import psutil

from node_agent import events
from node_agent.job import Job


class Telemetry:
    """Samples this process's CPU and memory while the `with` block runs."""

    def __init__(self, job: Job, emit: events.Emit) -> None:
        self._job = job
        self._emit = emit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def __enter__(self) -> Telemetry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        process, began = psutil.Process(), time.monotonic()
        process.cpu_percent()
        while not self._stop.wait(self._job.telemetry_interval):
            with process.oneshot():
                self._emit(
                    events.Telemetry(
                        self._job.rank,
                        self._job.node,
                        time.monotonic() - began,
                        process.cpu_percent(),
                        process.memory_info().rss,
                        process.num_threads(),
                    )
                )
