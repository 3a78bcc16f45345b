"""What this board is: read from the system, nothing is measured. Free of torch."""

from __future__ import annotations

import ctypes
import gzip
import os
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from node_agent.telemetry.files import text
from node_agent.telemetry.jetson import firmware_model, identify

_JETPACKS = {32: "4", 35: "5", 36: "6", 38: "7", 39: "7"}
"""major release of JetPack by that of L4T (NVIDIA, Jetson Linux archive)"""

_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)"""

_STATUS_AT = ctypes.sizeof(ctypes.c_long) * 5
"""bytes before the status in struct timex: modes (padded), offset, freq, maxerror, esterror"""


class Interface(NamedTuple):
    name: str
    up: bool
    addresses: list[str]


def model(root: Path = Path("/")) -> str | None:
    """The board, as its firmware names it: device tree, else DMI."""
    return firmware_model(root) or text(root / "sys/class/dmi/id/product_name") or None


@cache
def version(name: str) -> str | None:
    """Of Python or of a package, as installed, without importing it; None if it is not."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def release(root: Path = Path("/")) -> str | None:
    """Release of NVIDIA's L4T and its JetPack; None elsewhere."""
    board = identify(root)
    if board is None or board.l4t is None:
        return None
    major = int(board.l4t.split(".")[0])
    return f"L4T {board.l4t}" + (f" (JetPack {_JETPACKS[major]})" if major in _JETPACKS else "")


def processor(root: Path = Path("/")) -> str:
    """The kind of its CPU: by the kernel, else by the device tree, else its architecture."""
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return (text(root / "proc/device-tree/cpus/cpu@0/compatible") or platform.machine()).split("\0")[0]


def interfaces() -> list[Interface]:
    """Network interfaces with their IP addresses, up or not."""
    states, families = psutil.net_if_stats(), ("AF_INET", "AF_INET6")
    return [
        Interface(
            name,
            name in states and states[name].isup,
            [address.address.split("%")[0] for address in addresses if address.family.name in families],
        )
        for name, addresses in sorted(psutil.net_if_addrs().items())
    ]


def kernel_options(names: tuple[str, ...], root: Path = Path("/")) -> dict[str, str] | None:
    """y, m or n for each option of the running kernel's configuration; None where that is nowhere to be read."""
    kernel = platform.release()
    options = None
    try:
        options = gzip.decompress((root / "proc/config.gz").read_bytes()).decode()
    except (OSError, EOFError):  # not there, or not whole
        options = text(root / f"boot/config-{kernel}") or text(root / f"lib/modules/{kernel}/config")
    if options is None:
        return None
    told = dict(re.findall(r"^CONFIG_(\w+)=(\S+)$", options, re.MULTILINE))
    return {name: told.get(name, "n") for name in names}


def modules(names: tuple[str, ...], root: Path = Path("/")) -> list[str] | None:
    """Those of these modules that the running kernel has, built in or to be loaded; None where that is not told."""
    folder = root / "lib/modules" / platform.release()
    lists = [read for name in ("modules.builtin", "modules.dep") if (read := text(folder / name)) is not None]
    if not lists:
        return None
    return [name for name in names if any(f"/{name}.ko" in one for one in lists)]


def cpu_limits(root: Path = Path("/")) -> str | None:
    """The file by which a cgroup limits CPU time (CFS bandwidth), as far as this kernel has any."""
    v2, v1 = root / "sys/fs/cgroup", root / "sys/fs/cgroup/cpu"
    for pattern in ("cpu.max", "*/cpu.max", "*/*/cpu.max"):
        if next(v2.glob(pattern), None) is not None:
            return "cpu.max (cgroup v2)"
    return "cpu.cfs_quota_us (cgroup v1)" if (v1 / "cpu.cfs_quota_us").exists() else None


def synchronised(root: Path = Path("/")) -> bool | None:
    """Whether the real-time clock follows another one, as the kernel has it; None where it does not say."""
    if (root / "run/systemd/timesync/synchronized").exists():
        return True
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return None
    return not ctypes.c_int.from_buffer(buffer, _STATUS_AT).value & _UNSYNCHRONISED


def memory() -> tuple[int, int]:
    """Bytes that this system shows, and that are free."""
    found = psutil.virtual_memory()
    return found.total, found.available


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
