"""The one job of a board: who holds it, what state it is in, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from node_agent.daemon import disk
from node_agent.daemon.admission import Inadmissible, admit
from node_agent.daemon.api import Claim, JobStatus, Meeting, RunTask, State, Task
from node_agent.daemon.held import HeldJob, within
from node_agent.daemon.installation import Installation
from node_agent.daemon.network import NoAddress, open_meeting
from node_agent.daemon.process import Command, Commanding, command_of, end_earlier
from node_agent.daemon.refusal import Refusal, one_line
from node_agent.daemon.running import Running
from node_agent.daemon.settings import AgentSettings
from node_agent.daemon.store import Record, Store
from node_agent.daemon.uploads import Upload
from node_agent.device import power
from node_agent.device.power import PowerError

LOOK = 0.25
"""s between two looks at the lease"""

ENDING = 5.0
"""s that a request waits for a job to be gone"""

STOPPING = ENDING + power.CALLS * power.LIMIT
"""s that a stop waits for it, and for the board to be in the power mode from before"""

OWN_NAMES = ("job.json", "result")
"""files that the board itself or the job writes in the job's folder"""

IMPORTABLE = (".py", ".pyc", ".pyo", ".pyw", ".pth", ".zip", ".egg")
"""ends of names under which Python might take a file in the job's folder for a module of a program"""

LIBRARY = ".so"
"""anywhere in the names of those that might be taken for a library, such as libm.so.6"""

RESTARTED = "the agent was restarted while the job ran"
STOPPED = "the agent was stopped"

Around = Callable[[], AbstractContextManager[object]]
"""what holds while a job's process runs, such as a power mode; entered and left in a thread"""

log = logging.getLogger("node_agent.daemon")


class Slot:
    def __init__(
        self, settings: AgentSettings, store: Store, around: Around = nullcontext, commanding: Commanding = command_of
    ) -> None:
        self._commanding = commanding
        self._installation = Installation()
        self._settings = settings
        self._store = store
        self._around = around
        self._current: HeldJob | None = None
        self._kept: dict[str, HeldJob] = {}
        self._running: Running | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """of who claims the board or starts a job"""
        self._saving = asyncio.Lock()
        self.stopping = False
        self.outcomes = {"finished": 0, "failed": 0}
        self.uploaded_bytes = 0
        self._events_before = 0

    # What is there

    @property
    def current(self) -> HeldJob | None:
        return self._current

    @property
    def state(self) -> State:
        return self._current.record.state if self._current is not None else "idle"

    @property
    def running(self) -> Running | None:
        return self._running

    @property
    def told_events(self) -> int:
        """Since this daemon began, of all jobs."""
        running = self._current is not None and self._current.record.state == "running"
        return self._events_before + (self._current.journal.last if running and self._current else 0)

    def jobs(self) -> list[HeldJob]:
        """The current one first, then those kept, the latest first."""
        return [*([self._current] if self._current else []), *self._kept.values()]

    def find(self, job: str) -> HeldJob:
        """Raises Refusal."""
        if self._current is not None and self._current.id == job:
            return self._current
        if job not in self._kept:
            raise Refusal(404, "job: found an id that this board does not know")
        return self._kept[job]

    def owned(self, job: str, owner: str) -> HeldJob:
        """The job, for its owner; a sign of life. Raises Refusal."""
        held = self.find(job)
        if held.record.owner != owner:
            raise Refusal(403, f"job: found {owner}, allowed {held.record.owner}, who claimed the board", held.status())
        held.renew()
        return held

    # After a start

    async def take_up(self) -> None:
        """Go on with what an earlier daemon left: a job that ran has failed, and nothing of it runs any more; one whose
        files were being sent goes on, with its lease begun anew."""
        records, complaints = self._store.records()
        for complaint in complaints:
            log.warning(complaint)
        for record in records:
            from_before = HeldJob(record, self._store.folder(record.id))
            if self._current is None:
                self._current = from_before
            else:
                self._kept[record.id] = from_before
            if record.state == "running":
                await self._end_of_earlier(from_before)
            elif from_before.active and from_before is not self._current:
                await self._close(from_before, RESTARTED, None)
        if self._current is not None and self._current.active:
            await self._meet_again(self._current)

    async def _end_of_earlier(self, job: HeldJob) -> None:
        try:
            ended = await asyncio.to_thread(end_earlier, job.id)
        except TimeoutError as error:
            log.error(str(error))
        else:
            if ended:
                log.warning(f"job {job.id}: ended {len(ended)} processes that an earlier agent had started")
        await self._close(job, RESTARTED, None)

    async def _meet_again(self, job: HeldJob) -> None:
        try:
            self._open_meeting(job, job.record.port or 0)
        except NoAddress as error:
            reason = f"the agent was restarted, and its meeting point could not be opened again: {error}"
            await self._close(job, reason, None)
            return
        self._watch(job)
        await self.arrived(job)
        for upload in job.uploads.values():
            if upload.due:
                self._spawn(self._finish_earlier(job, upload))

    async def _finish_earlier(self, job: HeldJob, upload: Upload) -> None:
        try:
            await self.finish(job, upload)
        except Refusal as refusal:  # its owner sends it again
            log.warning(f"job {job.id}: {refusal.error}")

    # What its owner does

    async def claim(self, claim: Claim, owner: str) -> HeldJob:
        """Raises Refusal."""
        async with self._turn:
            return await self._claim(claim, owner)

    async def _claim(self, claim: Claim, owner: str) -> HeldJob:
        if self.stopping:
            raise Refusal(409, STOPPED)
        self._as_installed()
        if self._current is not None and self._current.active:
            held = self._current.status()
            raise Refusal(409, f"board: found {held.state} for {held.owner}'s run {held.run}, allowed idle", held)
        self._announced(claim)
        record = Record(
            id=secrets.token_hex(16),
            run=claim.run,
            owner=owner,
            lease_s=claim.lease_s,
            state="staging" if claim.files else "ready",
            claimed_s=time.time(),
            files=claim.files,
        )
        job = await self._made(record)
        if self._current is not None:
            self._kept = {self._current.id: self._current, **self._kept}
        self._current = job
        self._watch(job)
        log.info(f"job {job.id}: claimed by {owner} for run {claim.run}")
        return job

    def _as_installed(self, job: HeldJob | None = None) -> None:
        """Raises Refusal where a job would import something else than this daemon."""
        if changed := self._installation.changed():
            raise Refusal(409, changed, job.status() if job is not None else None)

    async def _make_room(self, needed: int) -> None:
        ended = [job.id for job in self.jobs() if job.ended.is_set()]
        for gone in await asyncio.to_thread(self._store.in_the_way, needed, ended):
            with suppress(Refusal):  # its owner may have forgotten it meanwhile
                self._lose(self.find(gone))
            await asyncio.to_thread(self._store.remove, gone)

    async def _made(self, record: Record) -> HeldJob:
        job = HeldJob(record, self._store.folder(record.id))
        try:
            self._open_meeting(job)
            await self._make_room(sum(file.bytes for file in record.files))
            await asyncio.to_thread(self._store.make, record)
        except (OSError, NoAddress, Refusal) as error:
            job.close()
            if isinstance(error, Refusal):
                raise
            raise Refusal(409, str(error)) if isinstance(error, NoAddress) else no_room(error) from error
        return job

    def _announced(self, claim: Claim) -> None:
        names = [file.name for file in claim.files]
        for name in names:
            if names.count(name) > 1:
                raise Refusal(422, f"files: found {name} twice, allowed different names")
            if name in OWN_NAMES:
                raise Refusal(422, f"files: found {name}, allowed other names than {', '.join(OWN_NAMES)}")
            if name.endswith(IMPORTABLE) or LIBRARY in name:
                raise Refusal(422, f"files: found {name}, allowed names that no program and no library has")

    def _lose(self, job: HeldJob) -> None:
        """Its folder is gone, or about to be."""
        if job is self._current:
            self._current = None
        self._kept.pop(job.id, None)
        job.close()

    def _open_meeting(self, job: HeldJob, port: int = 0) -> None:
        job.listening, host, job.record.port = open_meeting(self._settings.interface, port)
        job.meeting = Meeting(host=host, port=job.record.port)

    async def finish(self, job: HeldJob, upload: Upload) -> None:
        """All of a file has arrived: check it. Raises Refusal."""
        try:
            await upload.finish()
        except OSError as error:
            raise no_room(error, job.status()) from None
        except Refusal as refusal:
            raise Refusal(refusal.code, refusal.error, job.status()) from None
        await self.arrived(job)

    async def arrived(self, job: HeldJob) -> None:
        """Once all files are whole, the job is ready."""
        if job.record.state == "staging" and all(upload.complete for upload in job.uploads.values()):
            job.record.state = "ready"
            job.changed()
            await self._save(job)

    async def start(self, job: HeldJob, task: Task) -> None:
        """Raises Refusal."""
        async with self._turn:
            await self._start(job, task)

    async def _start(self, job: HeldJob, task: Task) -> None:
        self.startable(job)
        self._as_installed(job)
        if isinstance(task, RunTask):
            try:
                task = await asyncio.to_thread(self._admitted, job, task)
            except Inadmissible as error:
                raise Refusal(422, f"job.{error}", job.status()) from None
            except OSError as error:
                raise no_room(error, job.status()) from error
            self.startable(job)  # it may have been cancelled meanwhile
        if not isinstance(task, RunTask) or task.job.rank != 0:
            job.stop_listening()
        listening = job.listening.fileno() if job.listening is not None else None
        self.run(job, self._commanding(task, listening), isinstance(task, RunTask))

    def startable(self, job: HeldJob) -> None:
        """Raises Refusal unless the job may be started."""
        if job.record.state != "ready":
            raise Refusal(409, f"job: found {job.record.state}, allowed ready", job.status())

    def _admitted(self, job: HeldJob, task: RunTask) -> RunTask:
        """The task as it may run here, written where its process looks for it. Raises Inadmissible and OSError."""
        admitted = admit(task.job, list(job.uploads), self._settings.interface, self._settings.backend)
        disk.replace(job.folder.work / "job.json", admitted.model_dump_json(indent=2).encode())
        return RunTask(job=admitted)

    def run(self, job: HeldJob, command: Command, by_steps: bool) -> None:
        """Have the job's process started."""
        job.record.state = "running"
        self._spawn(self._do(job, command, by_steps))

    async def _do(self, job: HeldJob, command: Command, by_steps: bool) -> None:
        """The job's process, from before its start until after its end."""
        error: str | None
        exit: int | None = None
        await self._save(job)  # before there is a process that a later daemon would have to end
        around = self._around()
        try:
            await asyncio.to_thread(around.__enter__)
        except Exception as failure:  # whatever it was, the job ends and its owner hears of it
            await self._close(job, job.reason or _words(failure), None)
            return
        try:
            error, exit = await self._process(job, command, by_steps)
        except Exception as failure:  # as before
            error = job.reason or _words(failure)
        try:
            await asyncio.to_thread(around.__exit__, None, None, None)
        except Exception as failure:  # the job has ended all the same
            log.error(f"job {job.id}: {_words(failure)}")
        await self._close(job, error, exit)

    async def _process(self, job: HeldJob, command: Command, by_steps: bool) -> tuple[str | None, int | None]:
        others = await asyncio.to_thread(lambda: self._store.used() - self._store.used_by(job.id))
        if job.reason is not None:  # it was ended before it could begin
            return job.reason, None
        left = max(0, self._store.limit - others)
        self._running = Running(job, self._settings.memory_bytes, left, by_steps)
        try:
            descriptors = [job.listening.fileno()] if job.listening is not None else []
            process = self._running.start(command, self._settings.cpus, descriptors)
            job.stop_listening()
            log.info(f"job {job.id}: process {process.pid} started")
            return await self._running.until_over()
        finally:
            self._running = None

    async def cancel(self, job: HeldJob, by: str) -> None:
        """End the job, if it has not ended; waits a while for its processes to be gone."""
        if job.active:
            await self._end(job, f"cancelled by {by}")

    async def _end(self, job: HeldJob, reason: str, patience: float = ENDING) -> None:
        if job.record.state != "running":
            await self._close(job, reason, None)
            return
        if job.reason is None:
            job.reason = reason
        if self._running is not None:
            self._running.end(reason)
        if not await within(job.ended, patience):
            log.error(f"job {job.id}: its processes do not end")

    async def forget(self, job: HeldJob) -> None:
        """Raises Refusal while it runs."""
        if job.record.state == "running":
            raise Refusal(409, "job: found running, allowed one that has ended; cancel it first", job.status())
        if job.active:
            await self._close(job, "forgotten", None)
        await job.ended.wait()
        self._lose(job)
        await asyncio.to_thread(self._store.remove, job.id)

    async def stop(self) -> None:
        """End what runs. A job whose files are being sent stays for the next daemon."""
        self.stopping = True
        if self._watching is not None:
            self._watching.cancel()
        if self._current is not None and self._current.record.state == "running":
            await self._end(self._current, STOPPED, STOPPING)
        for job in self.jobs():
            job.stop_listening()
            job.changed()

    # What it does by itself

    def _watch(self, job: HeldJob) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch_lease(job))

    async def _watch_lease(self, job: HeldJob) -> None:
        looked = time.monotonic()
        while job.active:
            planned = min(LOOK, max(0.0, job.lease_left) + 0.001)
            await asyncio.sleep(planned)
            before, looked = looked, time.monotonic()  # the only clock here: no moment falls between two looks
            late = looked - before - planned
            if late > LOOK:  # the silence was this daemon's own: what was said meanwhile has still to be read
                job.excuse(late, LOOK)
            elif looked - job.renewed > job.record.lease_s:
                # Not here: who claims the board next ends this watch.
                self._spawn(self._end(job, f"the controller was silent for {job.record.lease_s:g} s"))
                return

    async def _close(self, job: HeldJob, error: str | None, exit: int | None) -> None:
        """The job has ended, if it has not before."""
        record = job.record
        if not job.active:
            await job.ended.wait()
            return
        job.stop_listening()
        record.state = "finished" if error is None else "failed"
        record.error = None if error is None else one_line(error)
        record.exit = exit
        job.meeting = record.port = None
        try:
            if not job.journal.retry():
                log.error(f"job {job.id}: the last events are in memory only: disk full")
            if job.journal.lost:
                _fail(record, f"{job.journal.lost} events at the end are lost: no room for them")
            record.events = job.journal.last
        except OSError as failure:
            log.error(f"job {job.id}: events: {failure.strerror}")
        self._events_before += record.events
        self.outcomes[record.state] += 1
        await self._save(job)
        job.ended.set()
        job.changed()
        log.info(f"job {job.id}: {record.state}{f': {record.error}' if record.error else ''}")

    async def _save(self, job: HeldJob) -> None:
        """Write how it stands now, after all that was to be written before."""
        record = job.record.model_copy()
        async with self._saving:
            try:
                await asyncio.to_thread(self._store.save, record)
            except OSError as error:
                log.error(f"job {job.id}: its record could not be written: {error.strerror}")

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fail(record: Record, error: str) -> None:
    """For one reason more."""
    record.state = "failed"
    record.error = one_line(f"{record.error}; {error}" if record.error else error)


def _words(failure: Exception) -> str:
    return str(failure) if isinstance(failure, PowerError) else f"{type(failure).__name__}: {failure}"


def no_room(error: OSError, status: JobStatus | None = None) -> Refusal:
    return Refusal(507, "disk full" if disk.is_full(error) else f"disk: {error.strerror}", status)


def statuses(jobs: Sequence[HeldJob]) -> list[JobStatus]:
    return [job.status() for job in jobs]
