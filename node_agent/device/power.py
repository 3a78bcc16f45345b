"""What a job may use of its board: a cpuset, and a power mode of `nvpmodel`.

`nvpmodel -q` prints `NV Power Mode: NAME` and, on the line after, the mode's id; `nvpmodel -m ID` sets a mode. Which
modes a board has stands in /etc/nvpmodel.conf, as `< POWER_MODEL ID=n NAME=x >`. Setting one takes root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node_agent.device.commands import run_limited

COMMAND = ("nvpmodel",)
CONFIGURATION = Path("/etc/nvpmodel.conf")

LIMIT = 30.0
"""s that nvpmodel may take"""

_QUERIED = re.compile(r"^NV Power Mode:[ \t]*(\S.*?)[ \t]*\n\s*(\d+)\s*$", re.MULTILINE)
_CONFIGURED = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_REBOOT = re.compile(r"reboot", re.IGNORECASE)


class PowerError(RuntimeError):
    """A power mode or a cpuset that cannot be had. One line, for people."""


@dataclass(frozen=True)
class PowerMode:
    name: str
    id: int

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


def pin(cpus: Sequence[int], process: int = 0) -> None:
    """Let a process (0: this thread), and what it starts from now on, run on these CPUs alone. Raises PowerError."""
    allowed = os.sched_getaffinity(process)
    if not cpus or not set(cpus) <= allowed:
        raise PowerError(f"cpus: found {list(cpus)}, allowed some of {sorted(allowed)}")
    os.sched_setaffinity(process, cpus)


def queried(output: str) -> PowerMode | None:
    """What the output of `nvpmodel -q` says."""
    found = _QUERIED.search(output)
    return PowerMode(found[1], int(found[2])) if found else None


def configured(text: str) -> list[PowerMode]:
    """The modes in the text of an nvpmodel.conf."""
    return [PowerMode(name, int(number)) for number, name in _CONFIGURED.findall(text)]


def current(command: Sequence[str] = COMMAND) -> PowerMode:
    """The mode that the board is in. Raises PowerError."""
    ended = run_limited([*command, "-q"], LIMIT)
    if ended.absent:
        raise PowerError(f"power_mode: {ended.fault}; only Jetson boards have nvpmodel")
    if ended.fault:
        raise PowerError(f"power_mode: {' '.join(command)} -q: {ended.fault}")
    mode = queried(ended.output)
    if mode is None:
        said = " ".join(ended.output.split())[:200]
        raise PowerError(f"power_mode: {' '.join(command)} -q: found {said!r}, expected NV Power Mode: NAME and its id")
    return mode


def resolve(wanted: int | str, known: Sequence[PowerMode]) -> int:
    """The id of a mode by its id or name (in whatever case). Raises PowerError unless it is one of those that are
    known; where none is, an id is taken as it is."""
    if not known:
        if isinstance(wanted, int) or wanted.isdecimal():
            return int(wanted)
        raise PowerError(f"power_mode: found {wanted!r}, allowed an id: no modes are listed in {CONFIGURATION}")
    for mode in known:
        if str(wanted).casefold() in (mode.name.casefold(), str(mode.id)):
            return mode.id
    raise PowerError(f"power_mode: found {wanted!r}, allowed {', '.join(map(str, known))}")


@contextmanager
def power_mode(
    wanted: int | str | None, command: Sequence[str] = COMMAND, configuration: Path = CONFIGURATION
) -> Iterator[PowerMode | None]:
    """In this mode inside, and at last in the one before; None: whatever the board is in, which is not asked.

    Raises PowerError where the mode is unknown, or the board does not take it, or does not go back.
    """
    if wanted is None:
        yield None
        return
    before = current(command)
    number = resolve(wanted, _known(configuration))
    try:
        yield _set(number, before, command)
    finally:
        _set(before.id, current(command), command)


def _known(configuration: Path) -> list[PowerMode]:
    try:
        return configured(configuration.read_text(errors="replace"))
    except OSError:  # not there, or not for this user: ids can be used all the same
        return []


def _set(number: int, found: PowerMode, command: Sequence[str]) -> PowerMode:
    if found.id == number:
        return found
    # Some changes take effect with the next boot: nvpmodel asks, and finds nobody to answer.
    ended = run_limited([*command, "-m", str(number)], LIMIT)
    mode = current(command)
    if mode.id == number:
        return mode
    if _REBOOT.search(ended.output):
        raise PowerError(f"power_mode: the board has to be restarted for mode {number}; it is in {mode}")
    raise PowerError(f"power_mode: asked for {number}, found {mode}" + (f": {ended.fault}" if ended.fault else ""))
