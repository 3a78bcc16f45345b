"""Records of what runs have started, so that what a killed one left can be ended: by these alone, never by pattern.

One file a run, written before what it names is used and removed when all of it is gone. A process is named by its pid
and the moment at which it started, which no later process with the same pid shares.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

TOKEN = "EDGESIM_RUN_TOKEN"
"""environment variable that what a run has started carries, descendants included"""

PATIENCE = 5.0
"""s for which a killed process may take to be gone"""


class RecordError(RuntimeError):
    """Records that cannot be kept, or must not be trusted."""


@dataclass(frozen=True)
class Process:
    pid: int
    started: int
    """clock ticks since the host started"""

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises OSError where there is no such process."""
        return cls(pid, _started(pid))

    def find(self) -> psutil.Process | None:
        try:
            same = _started(self.pid) == self.started
            return psutil.Process(self.pid) if same else None
        except (OSError, psutil.NoSuchProcess):
            return None


def _started(pid: int) -> int:
    """Field 22 of proc_pid_stat(5); the name before it may hold anything but a last closing parenthesis. Raises
    ProcessLookupError of one that has ended and is only waited for."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError(pid)
    return int(fields[18])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass
class Record:
    run: str
    controller: Process
    token: str
    """128 random bits, in hexadecimal"""
    processes: list[Process] = field(default_factory=list)
    boot: str = field(default_factory=_boot)
    """of the host; after the next one every process of the run is gone"""
    folders: list[str] = field(default_factory=list)
    """temporary ones"""
    of_controller: list[str] = field(default_factory=list)
    """temporary folders that the controller's process removes itself when it ends, unless it is killed"""

    def folder(self) -> Path:
        """A temporary folder, which goes with the record. Raises RecordError where there can be none."""
        made = Path(tempfile.gettempdir()) / f"edgesim-{secrets.token_hex(8)}"
        self.folders.append(str(made))
        self.write()  # first: what a kill leaves is known
        try:
            made.mkdir(mode=0o700)
        except OSError as error:
            raise RecordError(f"{made}: cannot be made: {error.strerror}") from error
        return made

    def leave(self, folders: Iterable[Path]) -> None:
        """Folders of this process, for whoever cleans up after it. Raises RecordError where it cannot be written."""
        self.of_controller += [str(path) for path in folders if str(path) not in self.of_controller]
        self.write()

    def add(self, pid: int) -> None:
        """Raises RecordError where it cannot be written."""
        with suppress(OSError):  # gone already
            self.processes.append(Process.of(pid))
        self.write()

    def write(self) -> None:
        path = _path(self.run)
        temporary = path.with_suffix(".partial")
        try:
            temporary.write_text(json.dumps(asdict(self)))
            temporary.replace(path)
        except OSError as error:
            raise RecordError(f"{path}: cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        for path in self.folders:
            shutil.rmtree(path, ignore_errors=True)
        _path(self.run).unlink(missing_ok=True)

    @property
    def alive(self) -> bool:
        """Whether the run's controller is still there."""
        return self.boot == _boot() and self.controller.find() is not None


@dataclass(frozen=True)
class Cleaned:
    run: str
    processes: int
    """that had to be ended"""
    alive: bool = False
    """whether it was left alone because it is still going on"""


@contextmanager
def recorded(run: str) -> Iterator[Record]:
    """A record of a run of this process, for as long as it lasts; what an earlier run of that name left is ended first,
    and what this one has left at last.

    Raises RecordError where it cannot be kept, where a run of that name is going on, or where something does not end.
    """
    clean_run(run)
    record = Record(run, Process.of(os.getpid()), secrets.token_hex(16))
    record.write()
    try:
        yield record
    finally:
        end(record)


def clean() -> Iterator[Cleaned]:
    """End what runs of this user have left behind. Raises RecordError, after all that could be ended has been."""
    failures = []
    for path in sorted(folder().glob("*.json")):
        try:
            if (record := _read(path)) is not None:
                yield Cleaned(record.run, 0, alive=True) if record.alive else clean_after(record)
        except RecordError as error:
            failures.append(str(error))
    if failures:
        raise RecordError("\n".join(failures))


def clean_run(run: str) -> None:
    """As `clean`, of one run only. Raises RecordError where it is still going on."""
    record = _read(_path(run))
    if record is None:
        return
    if record.alive:
        raise RecordError(f"run {run} is going on already, as process {record.controller.pid}")
    clean_after(record)


def clean_after(record: Record) -> Cleaned:
    """As `end`, of a run whose controller is gone, with that one's own folders."""
    ended = end(record)
    for path in record.of_controller:
        shutil.rmtree(path, ignore_errors=True)
    return Cleaned(record.run, ended)


def end(record: Record) -> int:
    """End every process of a run, then forget it; returns how many there were. Raises RecordError if one does not end,
    or must not be ended by this user."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while left := list(_left(record)):
        for process in left:
            ended.add(process.pid)
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # told of below, when it has not ended
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(left, timeout=0.2)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise RecordError(f"run {record.run}: process {pids} does not end")
    record.remove()
    return len(ended)


def _left(record: Record) -> Iterator[psutil.Process]:
    if record.boot != _boot():
        return
    # Never ourselves, nor what started us: whoever cleans up inside a run's node has been given its mark.
    pids = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    known = [found for process in record.processes if (found := process.find()) is not None and found.pid not in pids]
    yield from known
    pids |= {process.pid for process in known}
    mark = f"{TOKEN}={record.token}".encode()
    for process in psutil.process_iter():
        if process.pid not in pids and _carries(process.pid, mark):
            yield process


def _carries(pid: int, mark: bytes) -> bool:
    """Whether a process was given the mark in its environment. Other users' processes do not tell."""
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _path(run: str) -> Path:
    return folder() / f"{run}.json"


def _read(path: Path) -> Record | None:
    """None where it is gone. Raises RecordError."""
    try:
        content = json.loads(path.read_text())
        return Record(
            run=content["run"],
            controller=Process(**content["controller"]),
            token=content["token"],
            processes=[Process(**process) for process in content["processes"]],
            boot=content["boot"],
            folders=content.get("folders", []),
            of_controller=content.get("of_controller", []),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a record of a run ({error}); remove it") from error


def folder() -> Path:
    """Of this user alone: a record that somebody else could write would have us kill what they name."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    # A user who has become another one may still be told of the first one's.
    base = runtime if os.access(runtime, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    folder = base / f"edgesim-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RecordError(f"{folder}: cannot be made: {error.strerror}") from error
    if folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise RecordError(f"{folder}: found a folder that others may write, allowed one of this user alone")
    return folder
