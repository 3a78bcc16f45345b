"""Processor, memory, network and disk of the host, and what this process takes of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from node_agent.telemetry import files

SHORTEST = 0.1
"""s; the kernel's account of the processors is kept in hundredths, and of a shorter time it tells nothing"""


def boot_id(root: Path = Path("/")) -> str | None:
    """What processes of one running system have in common, whatever their namespaces, and no others; None: not told."""
    return files.text(root / "proc/sys/kernel/random/boot_id")


class Process:
    """This process: all its threads, without its children."""

    name = "process"

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before: tuple[float, float] | None = None

    def read(self) -> dict[str, Any]:
        now = time.monotonic(), time.process_time()
        before, self._before = self._before, now
        percent = None
        if before is not None and now[0] > before[0]:
            percent = 100 * (now[1] - before[1]) / (now[0] - before[0])
        with self._process.oneshot():
            memory, threads = self._process.memory_info().rss, self._process.num_threads()
        return {"cpu_percent": percent, "rss_bytes": memory, "threads": threads}

    def close(self) -> None:
        pass


class Processors:
    """Load of all processors together, 100 % when all are busy, and the clocks of those that are on."""

    name = "processors"

    def __init__(self, root: Path) -> None:
        self._cpus = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
        self._before: tuple[float, float, float] | None = None

    def read(self) -> dict[str, Any]:
        clocks = [files.number(cpu / "cpufreq/scaling_cur_freq") for cpu in self._cpus if _is_on(cpu)]
        known = [1e3 * clock for clock in clocks if clock is not None]
        return {
            "host_cpu_percent": self._load(),
            "cpus_on": len(clocks) or None,
            "cpu_hz": sum(known) / len(known) if known else None,
        }

    def _load(self) -> float | None:
        now, times = time.monotonic(), psutil.cpu_times()
        if self._before is not None and now - self._before[0] < SHORTEST:
            return None
        # Guests are in user and nice already.
        whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        before, self._before = self._before, (now, whole, idle)
        if before is None or whole <= before[1]:
            return None
        return min(100.0, max(0.0, 100 * (1 - (idle - before[2]) / (whole - before[1]))))

    def close(self) -> None:
        pass


def _is_on(cpu: Path) -> bool:
    """The first processor of many systems cannot be switched off, and has no file for it."""
    return files.number(cpu / "online") != 0


class Memory:
    name = "memory"

    def read(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        return {"memory_used_bytes": memory.used, "memory_available_bytes": memory.available}

    def close(self) -> None:
        pass


class Network:
    """What an interface has carried since the first call."""

    name = "network"

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._first: tuple[int, int] | None = None

    def read(self) -> dict[str, Any]:
        """Raises ValueError where this network namespace has no such interface."""
        counts = psutil.net_io_counters(pernic=True)
        if self._interface not in counts:
            raise ValueError(f"interface: found {self._interface}, allowed {', '.join(sorted(counts))}")
        of = counts[self._interface]
        first = self._first = self._first or (of.bytes_sent, of.bytes_recv)
        return {"interface_sent_bytes": of.bytes_sent - first[0], "interface_received_bytes": of.bytes_recv - first[1]}

    def close(self) -> None:
        pass


class Disk:
    """What the host's disks have read and written since the first call, and what is free where this process works."""

    name = "disk"

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder
        # Of loop devices, device mapper, RAID and compressed memory the disks beneath count, or there are none.
        self._disks = {path.parent.name for path in (root / "sys/block").glob("*/device")}
        self._first: tuple[int, int] | None = None

    def read(self) -> dict[str, Any]:
        """Raises OSError where the folder is gone."""
        free = psutil.disk_usage(str(self._folder)).free
        counts = psutil.disk_io_counters(perdisk=True) if self._disks else {}
        disks = [count for name, count in (counts or {}).items() if name in self._disks]
        if not disks:
            return {"disk_free_bytes": free}
        read, written = sum(disk.read_bytes for disk in disks), sum(disk.write_bytes for disk in disks)
        first = self._first = self._first or (read, written)
        return {
            "disk_free_bytes": free,
            "disk_read_bytes": read - first[0],
            "disk_written_bytes": written - first[1],
        }

    def close(self) -> None:
        pass
