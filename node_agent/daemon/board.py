"""What a board tells of itself."""

from __future__ import annotations

import os
import platform
import shutil

import psutil

from node_agent.daemon import disk
from node_agent.daemon.api import Board
from node_agent.daemon.network import address_of
from node_agent.daemon.settings import AgentSettings
from node_agent.device import facts, power
from node_agent.telemetry.host import boot_id


def describe(settings: AgentSettings) -> Board:
    """May ask the board's own commands, and take its time. Raises NoAddress."""
    return Board(
        name=settings.name,
        versions={name: facts.version(name) for name in ("edgesim", "python", "torch", "numpy")},
        machine=platform.machine(),
        model=facts.model() or _system(),
        boot=boot_id() or "unknown",
        interface=settings.interface,
        address=address_of(settings.interface),
        cores=len(settings.cpus or os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        memory_limit_bytes=settings.memory_bytes,
        disk_free_bytes=disk.free(settings.data),
        disk_limit_bytes=settings.disk_bytes,
        power_mode=_power_mode(settings.nvpmodel),
    )


def _system() -> str:
    """The operating system's name."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def _power_mode(nvpmodel: tuple[str, ...]) -> str | None:
    """None where there is no such thing."""
    if shutil.which(nvpmodel[0]) is None:
        return None
    try:
        return str(power.current(nvpmodel))
    except power.PowerError:
        return None
