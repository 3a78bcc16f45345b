"""A job's process and what comes from it: events into the journal, what it prints into the log, limits watched."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import from_json

from node_agent.daemon import disk
from node_agent.daemon.held import HeldJob
from node_agent.daemon.process import Limits, Process, environment, how_it_ended

LONGEST_LINE = 64 * 2**20
"""bytes of one event"""

READ = 2**18

LAST_WORDS = 5.0
"""s that a job's pipes may stay open after its process and all of its session are gone"""

LONGEST_PAUSE = 86400.0

MEMORY_EVERY, DISK_EVERY = 0.4, 1.0
"""s between two looks"""

MIB = 2**20


class Running:
    """Watches over one process until it is gone. Lives in the event loop."""

    def __init__(self, job: HeldJob, memory: int | None, disk_left: int, by_steps: bool) -> None:
        """`memory` is what the processes may hold together, `disk_left` what the job's folder may take, bytes."""
        self._job = job
        self._memory, self._disk_left = memory, disk_left
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._open: dict[int, asyncio.Event] = {}
        self._line = bytearray()
        self._by_steps = by_steps
        self._step = 0
        self._fault: str | None = None
        self._finished = not by_steps
        self._resume: asyncio.TimerHandle | None = None
        self.memory_bytes = 0

    def start(
        self, command: Callable[[int], Sequence[str]], cpus: tuple[int, ...] | None, descriptors: Sequence[int]
    ) -> Process:
        """Raises OSError."""
        job = self._job
        process = Process(
            command,
            job.folder.work,
            environment(job.id, job.folder.work, job.folder.probes),
            Limits(cpus=cpus, file_bytes=self._disk_left),
            descriptors,
        )
        job.process = process
        for descriptor, take in ((process.events, self._events_came), (process.output, self._printed)):
            self._open[descriptor] = asyncio.Event()
            self._loop.add_reader(descriptor, self._read, descriptor, take)
        process.when_over(self._is_over)
        return process

    def _is_over(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)

    async def until_over(self) -> tuple[str | None, int]:
        """Wait until the process and all that it started are gone and what they said is kept; returns why it failed, if
        it did, and the exit code."""
        process = self._job.process
        assert process is not None
        watching = asyncio.create_task(self._watch(process))
        watching.add_done_callback(self._watched)
        await self._over.wait()
        watching.cancel()
        if self._resume is not None:
            self._resume.cancel()
        exit = process.reap()
        waiting = [asyncio.create_task(closed.wait()) for closed in self._open.values()]
        _, late = await asyncio.wait(waiting, timeout=LAST_WORDS)
        for task in late:
            task.cancel()
        for descriptor in self._open:
            self._loop.remove_reader(descriptor)
        process.close()
        return self._error(exit), exit

    def end(self, reason: str) -> None:
        """End the process; the first reason is the one that is told."""
        if self._job.reason is None:
            self._job.reason = reason
        if self._job.process is not None and not self._over.is_set():
            self._job.process.kill()

    def _error(self, exit: int) -> str | None:
        if self._job.reason is not None:
            return self._job.reason
        if self._fault is not None:
            return self._fault
        if exit == 0 and self._finished:
            return None
        how = how_it_ended(exit, self._step if self._by_steps else None)
        last = self._job.output.last_line() if exit > 0 else ""
        return f"{how}: {last}" if last else how

    def _read(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        try:
            chunk = os.read(descriptor, READ)
        except BlockingIOError:
            return
        if chunk:
            try:
                take(chunk)
            except OSError as error:
                self._disk_failed(error)
            return
        self._loop.remove_reader(descriptor)
        self._open[descriptor].set()

    def _disk_failed(self, error: OSError) -> None:
        self.end("disk full" if disk.is_full(error) else f"disk: {error.strerror}")

    def _printed(self, chunk: bytes) -> None:
        self._job.output.append(chunk)

    def _events_came(self, chunk: bytes) -> None:
        searched = len(self._line)
        self._line += chunk
        begin = 0
        while (end := self._line.find(b"\n", max(begin, searched))) >= 0:
            line = bytes(self._line[begin : end + 1])
            begin = end + 1
            self._event(line)
        del self._line[:begin]
        if len(self._line) > LONGEST_LINE:
            self._line.clear()
            self.end(f"the job told an event of more than {LONGEST_LINE // MIB} MiB")

    def _event(self, line: bytes) -> None:
        if self._job.reason is not None and self._job.reason.startswith(_NO_EVENT):
            return
        event = _parsed(line)
        if event is None:
            self.end(f"{_NO_EVENT}: {line[:60].decode(errors='replace')}")
            return
        self._take(event)
        journal = self._job.journal
        room = self._disk_left - self._job.output.bytes
        if journal.size + len(line) > room:
            self.end(_too_much("disk", journal.size + len(line) + self._job.output.bytes, self._disk_left))
            return
        try:
            journal.append(line)
        except OSError as error:
            self._disk_failed(error)
        self._job.changed()

    def _take(self, event: dict[str, Any]) -> None:
        """What of an event concerns the daemon."""
        kind = event["event"]
        step = event.get("step")
        if kind == "step" and isinstance(step, int):
            self._step = step
        elif kind == "fault":
            self._fault = str(event.get("error") or "failed without a word")
        elif kind == "finished":
            self._finished = True
        elif kind == "paused":
            seconds = event.get("seconds")
            if isinstance(seconds, int | float) and math.isfinite(seconds) and 0 < seconds <= LONGEST_PAUSE:
                self._pause(float(seconds))

    def _pause(self, seconds: float) -> None:
        process = self._job.process
        if process is None or self._over.is_set():
            return
        process.pause()
        if self._resume is not None:
            self._resume.cancel()
        self._resume = self._loop.call_later(seconds, process.go_on)

    def _watched(self, watching: asyncio.Task[None]) -> None:
        """A job that cannot be watched does not run."""
        failure = None if watching.cancelled() else watching.exception()
        if failure is not None:
            self.end(f"its limits could not be watched: {type(failure).__name__}: {failure}")

    async def _watch(self, process: Process) -> None:
        looked = -math.inf
        while True:
            self.memory_bytes = process.memory()
            if self._memory is not None and self.memory_bytes > self._memory:
                self.end(_too_much("memory", self.memory_bytes, self._memory))
            if self._loop.time() - looked >= DISK_EVERY:
                looked = self._loop.time()
                used = await asyncio.to_thread(disk.used, self._job.folder.path)
                if used > self._disk_left:
                    self.end(_too_much("disk", used, self._disk_left))
            await asyncio.sleep(MEMORY_EVERY)


_NO_EVENT = "the job told what is no event"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None if there is none. To some readers a carriage return ends a line, too."""
    if b"\r" in line:
        return None
    try:
        event = from_json(line, allow_inf_nan=False)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _too_much(what: str, used: int, allowed: int) -> str:
    return f"{what}: used {_mib(used)} MiB, allowed {_mib(allowed)} MiB"


def _mib(octets: int) -> str:
    return f"{octets / MIB:.0f}" if octets >= 10 * MIB else f"{octets / MIB:.1f}"
