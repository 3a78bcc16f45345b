"""The data folder: one folder per job, bounded in number and size, and one daemon at a time.

lock                 held by the daemon that uses the folder
power-mode           while a job has the board in another one: the mode before
probes               what jobs have found out about the board since the daemon began
spare                room kept for what has to be written when the disk is full
jobs/ID/record.json  what is known of a job
jobs/ID/events       its events, a line each
jobs/ID/log          what it printed
jobs/ID/parts/       files that have not arrived whole
jobs/ID/work/        the folder that its process works in
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node_agent import atomic
from node_agent.daemon import disk
from node_agent.daemon.api import File, State
from node_agent.daemon.refusal import Refusal
from node_agent.security.files import make_private_folder

PROBES, POWER_MODE = "probes", "power-mode"

SPARE = 256 * 1024
RESERVE = 16 * 2**20
"""bytes that stay free on the disk when a claim is granted"""


class DataFolderError(Exception):
    """A data folder that cannot be used; its text is one line."""


class Record(BaseModel):
    """What is known of a job, also after a restart."""

    model_config = ConfigDict(extra="ignore")

    id: str
    run: str
    owner: str
    lease_s: float
    state: State
    claimed_s: float = Field(description="s since 1970")
    files: tuple[File, ...] = ()
    port: int | None = Field(default=None, description="at which the nodes of the run meet, if at this board")
    events: int = 0
    error: str | None = None
    exit: int | None = None


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "record.json"
        self.events = path / "events"
        self.log = path / "log"
        self.parts = path / "parts"
        self.work = path / "work"
        self.probes = path.parent.parent / PROBES

    def make(self) -> None:
        for folder in (self.path, self.parts, self.work):
            folder.mkdir(mode=0o700)
        for file in (self.events, self.log):
            file.touch(0o600)


class Store:
    def __init__(self, data: Path, limit: int, kept: int) -> None:
        """Takes the folder for this process. Raises DataFolderError."""
        self.data = data
        self.limit = limit
        """bytes that all job folders may take together"""
        self.kept = kept
        self._jobs = data / "jobs"
        try:
            make_private_folder(data)
            if (mode := data.stat().st_mode & 0o777) & 0o077:
                raise DataFolderError(
                    f"{data}: found mode {mode:04o}, allowed 0700: others can read this folder; if it is the agent's "
                    f"own, chmod 700 {data}"
                )
            self._jobs.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in (data, *self._jobs.iterdir()):
                atomic.sweep(folder, 0)
        except BlockingIOError:
            os.close(self._lock)
            raise DataFolderError(f"{data}: another agent uses this folder") from None
        except OSError as error:
            raise DataFolderError(f"{error.filename or data}: {error.strerror}") from None
        self._keep_spare()

    def close(self) -> None:
        os.close(self._lock)

    def records(self) -> tuple[list[Record], list[str]]:
        """What the folder holds of earlier jobs, the latest first, and complaints about folders that hold nothing
        readable; those are left alone."""
        found, complaints = [], []
        for folder in self._jobs.iterdir():
            try:
                record = Record.model_validate_json((folder / "record.json").read_bytes())
                if record.id != folder.name:
                    raise ValueError("another job's")
                found.append(record)
            except (OSError, ValidationError, ValueError):
                complaints.append(f"{folder}: found no readable record of a job; remove the folder if it is not needed")
        return sorted(found, key=lambda record: record.claimed_s, reverse=True), complaints

    def folder(self, job: str) -> JobFolder:
        return JobFolder(self._jobs / job)

    def make(self, record: Record) -> JobFolder:
        """A new job's folder. Raises OSError."""
        folder = self.folder(record.id)
        try:
            folder.make()
            self.save(record)
        except OSError:
            self.remove(record.id)
            raise
        self._keep_spare()
        return folder

    def save(self, record: Record) -> None:
        """Raises OSError: on a full disk only if the room kept for this did not do either."""
        content = record.model_dump_json(indent=2).encode()
        path = self.folder(record.id).record
        try:
            disk.replace(path, content)
        except OSError as error:
            if not disk.is_full(error):
                raise
            self._spare.unlink(missing_ok=True)
            disk.replace(path, content)

    def remove(self, job: str) -> None:
        shutil.rmtree(self.folder(job).path, ignore_errors=True)

    def used(self) -> int:
        return disk.used(self._jobs)

    def used_by(self, job: str) -> int:
        return disk.used(self.folder(job).path)

    def in_the_way(self, needed: int, kept: list[str]) -> list[str]:
        """Which of the ended jobs `kept` (the latest first) have to be removed for a new one that needs so many bytes:
        no more than that takes, the oldest first. Raises Refusal if there is no room even without them all."""
        if needed > self.limit:
            raise Refusal(413, f"files: found {needed} bytes, allowed {self.limit} on this board")
        used, free = self.used(), disk.free(self.data)
        staying, going = list(kept), list[str]()
        while used + needed > self.limit or free < needed + RESERVE or len(staying) > self.kept:
            if not staying:
                break
            going.append(staying.pop())
            freed = self.used_by(going[-1])
            used, free = used - freed, free + freed
        if used + needed > self.limit:
            raise Refusal(507, f"disk: found {used} of {self.limit} bytes used, {needed} more are needed")
        if free < needed + RESERVE:
            raise Refusal(507, f"disk full: found {free} bytes free, {needed + RESERVE} are needed")
        return going

    @property
    def _spare(self) -> Path:
        return self.data / "spare"

    def _keep_spare(self) -> None:
        with suppress(OSError):  # a full disk: tried again with the next claim
            if not self._spare.exists():
                disk.replace(self._spare, bytes(SPARE))
