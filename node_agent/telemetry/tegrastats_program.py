"""The program `tegrastats`, run for its lines: the second source of what the kernel's files do not tell this user."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node_agent.telemetry import rails
from node_agent.telemetry.jetson import highest
from node_agent.telemetry.tegrastats import Sample, parse

PLACES = ("usr/bin/tegrastats", "usr/sbin/tegrastats")

SHORTEST_INTERVAL = 0.1
"""s"""
ENDING = 2.0
"""s that the program has to end when it is told to"""
LONGEST_LINE = 2**16
BY = "tegrastats"


def find(root: Path = Path("/")) -> Path | None:
    """Where the program is; None where there is none that may be run."""
    return next((root / place for place in PLACES if os.access(root / place, os.X_OK)), None)


class Tegrastats:
    """Runs the program, and holds its latest line. It ends with this object, or with this process: there is nobody
    left who reads what it writes then."""

    name = BY

    def __init__(self, program: Path, interval: float, now: Callable[[], float] = time.monotonic) -> None:
        """`interval` in s. Raises OSError where the program cannot be started."""
        interval = max(interval, SHORTEST_INTERVAL)
        self._fresh = 3 * interval
        self._now = now
        self._latest: tuple[float, Sample] | None = None
        self._lines = 0
        self._process = subprocess.Popen(
            [str(program), "--interval", str(round(1000 * interval))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._thread = threading.Thread(target=self._listen, name="tegrastats", daemon=True)
        self._thread.start()

    @property
    def sample(self) -> Sample | None:
        """The latest, unless it is older than three intervals."""
        latest = self._latest
        return latest[1] if latest is not None and self._now() - latest[0] <= self._fresh else None

    def read(self) -> dict[str, Any]:
        """What the latest line has; empty before the first. Raises OSError once the program has ended."""
        if self._process.poll() is not None:
            raise OSError(f"ended by itself with exit code {self._process.returncode} after {self._lines} lines")
        sample = self.sample
        return {} if sample is None else of(sample)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(ENDING)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # What it started may have its output open still: that thread is not waited for any longer.
        self._thread.join(ENDING)
        if not self._thread.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(LONGEST_LINE):
            sample = parse(line.decode(errors="replace"))
            if not sample.empty:
                self._lines += 1
                self._latest = self._now(), sample


def of(sample: Sample) -> dict[str, Any]:
    """A line in the terms of telemetry."""
    total = rails.total(sample.rails)
    cpus = [cpu for cpu in sample.cpus or () if cpu is not None]
    clocks = [cpu.hz for cpu in cpus if cpu.hz is not None]
    return {
        "gpu_percent": sample.gpu_percent,
        "gpu_hz": max(sample.gpu_hz, default=None),
        "cpus_on": len(cpus) or None,
        "cpu_hz": sum(clocks) / len(clocks) if clocks else None,
        "emc_percent": sample.emc_percent,
        "emc_hz": sample.emc_hz,
        **highest(sample.temperatures),
        "rails_w": sample.rails or None,
        "total_w": None if total is None else total.watts,
        "power_source": None if total is None else f"{total.definition} by {BY}",
    }
