"""The power mode in which a job finds its board, by `nvpmodel`.

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

CALLS = 3
"""of nvpmodel, to go back to a mode: it is asked for the mode before and after"""

_QUERIED = re.compile(r"^NV Power Mode:[ \t]*(\S.*?)[ \t]*\n\s*(\d+)\s*$", re.MULTILINE)
_CONFIGURED = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_REBOOT = re.compile(r"reboot", re.IGNORECASE)


class PowerError(RuntimeError):
    """A power mode that cannot be had. One line, for people."""


@dataclass(frozen=True)
class PowerMode:
    name: str
    id: int

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


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
    wanted: int | str | None,
    command: Sequence[str] = COMMAND,
    configuration: Path = CONFIGURATION,
    note: Path | None = None,
) -> Iterator[PowerMode | None]:
    """In this mode inside, and at last in the one before; None: whatever the board is in, which is not asked. Meanwhile
    the id of the one before stands in the file `note`, for `restore`.

    Raises PowerError where the mode is unknown, or the board does not take it, or does not go back.
    """
    if wanted is None:
        yield None
        return
    found = current(command)
    before, number = _noted(note, found.id), resolve(wanted, _known(configuration))
    _write(note, before)
    try:
        yield _set(number, found, command)
    finally:
        _set(before, current(command), command)
        _forget(note)


def restore(note: Path, command: Sequence[str] = COMMAND) -> PowerMode | None:
    """Go back to the mode that is noted, as whoever was to do so was killed; None where none is. Raises PowerError
    where the board does not go back; the note stays then."""
    if not note.exists():
        return None
    found = current(command)
    mode = _set(_noted(note, found.id), found, command)
    _forget(note)
    return mode


def _noted(note: Path | None, otherwise: int) -> int:
    try:
        return int(note.read_text()) if note is not None else otherwise
    except (OSError, ValueError):  # there is none, or it was not written to its end
        return otherwise


def _write(note: Path | None, mode: int) -> None:
    if note is not None:
        try:
            with note.open("w") as file:
                file.write(f"{mode}\n")
                file.flush()
                os.fsync(file.fileno())  # the board keeps the mode over a loss of power, too
        except OSError as error:
            raise PowerError(f"power_mode: {note}: {error.strerror}") from error


def _forget(note: Path | None) -> None:
    if note is not None:
        note.unlink(missing_ok=True)


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
