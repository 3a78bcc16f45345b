"""A job that the board holds: its files, its events, and how it stands. Running it is another's affair."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress

from node_agent.daemon.api import JobStatus, Meeting
from node_agent.daemon.journal import Journal, Output
from node_agent.daemon.process import Process
from node_agent.daemon.store import JobFolder, Record
from node_agent.daemon.uploads import Upload

ACTIVE = ("staging", "ready", "running")
ENDED = ("finished", "failed")


class HeldJob:
    def __init__(self, record: Record, folder: JobFolder) -> None:
        """Raises OSError."""
        self.record = record
        self.folder = folder
        self.uploads = {
            file.name: Upload(file, folder.parts / file.name, folder.work / file.name) for file in record.files
        }
        self.listening: socket.socket | None = None
        self.meeting: Meeting | None = None
        self.process: Process | None = None
        self.reason: str | None = None
        """why it is being ended"""
        self.renewed = time.monotonic()
        self.gone = False
        """whether its folder is, too"""
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._journal: Journal | None = None
        self._output: Output | None = None
        if not self.active:
            self.ended.set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def active(self) -> bool:
        return self.record.state in ACTIVE

    @property
    def journal(self) -> Journal:
        """Opened when it is needed first. Raises OSError."""
        if self._journal is None:
            self._journal = Journal(self.folder.events)
        return self._journal

    @property
    def output(self) -> Output:
        if self._output is None:
            self._output = Output(self.folder.log)
        return self._output

    @property
    def lease_left(self) -> float:
        return self.record.lease_s - (time.monotonic() - self.renewed)

    def renew(self) -> None:
        self.renewed = time.monotonic()

    def excuse(self, seconds: float, least: float) -> None:
        """For so long nobody listened: that was no silence of the owner's, and at least `least` s are left to him."""
        now = time.monotonic()
        self.renewed = min(now, max(self.renewed + seconds, now - self.record.lease_s + least))

    def status(self) -> JobStatus:
        record = self.record
        return JobStatus(
            id=record.id,
            run=record.run,
            owner=record.owner,
            state=record.state,
            lease_s=record.lease_s,
            lease_left_s=max(0.0, self.lease_left) if self.active else None,
            files=tuple(upload.status for upload in self.uploads.values()),
            meeting=self.meeting,
            events=self._journal.last if self._journal is not None else record.events,
            error=record.error,
            exit=record.exit,
        )

    def changed(self) -> None:
        """Wake those that wait for something new."""
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    def news(self) -> asyncio.Event:
        """Set as soon as there is something that is not there now."""
        return self._changed

    def stop_listening(self) -> None:
        if self.listening is not None:
            self.listening.close()
            self.listening = None

    def close(self) -> None:
        """It is forgotten: give its files back."""
        self.gone = True
        self.changed()
        self.stop_listening()
        for file in (self._journal, self._output):
            if file is not None:
                file.close()
        self._journal = self._output = None


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it is set by then."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
