"""Emulated nodes: processes of this host, forked from a server that has torch loaded already.

Forking shares what importing torch brings (seconds of CPU and most of the memory of a node); the server starts once
and serves all runs of this process. A node ends itself when the process that started it is gone, however it went.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from edgesim.fleet.base import SETTLING, Ground, NodeFailure, Strips, blame_of, cause_of, ended, tail
from edgesim.network import syscalls
from node_agent.events import Event, Fault, Finished, Paused
from node_agent.job import Job

SHARED = ("node_agent.worker", "torch._dynamo")
"""modules that the server loads for all nodes; the second is what making an optimiser imports"""

PR_SET_PDEATHSIG = 1

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class LocalFleet:
    """One process per node on this host."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", *SHARED])
        self._nodes: list[_LocalNode] = []

    @property
    def pids_are_ours(self) -> bool:
        return True

    def prepare(self, run: str, nodes: Sequence[str], strips: Strips, folder: Path) -> Ground:
        return Ground(f"file://{folder}/rendezvous", [strips.settings] * len(nodes))

    def described(self) -> dict[str, Any]:
        return {"kind": "local"}

    def folders(self) -> Sequence[Path]:
        return (Path(multiprocessing.util.get_temp_dir()),)

    def start(self, jobs: Sequence[Job], logs: Sequence[Path]) -> None:
        multiprocessing.resource_tracker.ensure_running()  # it would unblock interrupts inside
        with _environment(_ONE_THREAD), _without_interrupts():
            multiprocessing.forkserver.ensure_running()
        self._nodes = [_LocalNode(self._context, job, log) for job, log in zip(jobs, logs, strict=True)]

    def events(self) -> Iterator[Event]:
        listening = {node.events: node for node in self._nodes}
        while listening:
            for ready in connection.wait(list(listening), timeout=self._until_one_goes_on()):
                node = listening[ready]  # type: ignore[index]
                event = node.next_event()
                if event is not None:
                    yield event
                if isinstance(event, Paused):
                    node.pause(event.seconds)
                if isinstance(event, Fault) or (event is None and not node.finished):
                    yield from self._last_events()
                    raise self._cause(node)
                if event is None:
                    del listening[node.events]

    def _until_one_goes_on(self) -> float | None:
        """Let those nodes go on whose pause is over; s until the next one's is."""
        return min((left for node in self._nodes if (left := node.paused()) is not None), default=None)

    def _last_events(self) -> Iterator[Event]:
        """What the other nodes still have to say: things measured, and failures of their own."""
        deadline = time.monotonic() + SETTLING
        listening = {node.events: node for node in self._nodes if node.running}
        while listening and (left := deadline - time.monotonic()) > 0:
            for ready in connection.wait(list(listening), timeout=left):
                node = listening[ready]  # type: ignore[index]
                event = node.next_event()
                if event is None:
                    del listening[node.events]
                else:
                    yield event

    def _cause(self, first: _LocalNode) -> NodeFailure:
        return cause_of([node for node in self._nodes if node.failed], first).failure()

    def __enter__(self) -> LocalFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes:
            node.stop()
        self._nodes = []


class _LocalNode:
    """One process, seen from the controller."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, job: Job, log: Path) -> None:
        self.job = job
        self.log = log
        self.finished = False
        self.running = True
        self.fault: Fault | None = None
        self.last_step = 0
        self._goes_on: float | None = None
        self.events, events = context.Pipe(duplex=False)
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self.process: ForkServerProcess = context.Process(
            target=_node_main, args=(job, str(log), events, lifeline), name=job.node, daemon=True
        )
        self.process.start()
        events.close()
        lifeline.close()

    def next_event(self) -> Event | None:
        """The node's next event; None once its process is gone."""
        try:
            event: Event = self.events.recv()
        except (EOFError, OSError):
            self.running = False
            self.process.join()
            return None
        if isinstance(event, Finished):
            self.finished = True
        elif isinstance(event, Fault):
            self.fault = event
        else:
            self.last_step = getattr(event, "step", self.last_step)
        return event

    @property
    def failed(self) -> bool:
        return self.fault is not None or not (self.running or self.finished)

    @property
    def blame(self) -> int:
        return blame_of(self.fault)

    def failure(self) -> NodeFailure:
        if self.fault is not None:
            reason = f"failed: {self.fault.error}"
        else:
            reason = ended(self.process.exitcode or 0, self.last_step)
        return NodeFailure(self.job.rank, self.job.node, reason, tail(self.log))

    def pause(self, seconds: float) -> None:
        """Stop the process for so long."""
        if not self.process.is_alive():
            return
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        self._goes_on = time.monotonic() + seconds

    def paused(self) -> float | None:
        """How long the node's pause still lasts, s; None if there is none. One that is over ends now."""
        if self._goes_on is None:
            return None
        left = self._goes_on - time.monotonic()
        if left > 0:
            return left
        self._goes_on = None
        if self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, signal.SIGCONT)
        return None

    def stop(self) -> None:
        if self.process.is_alive():
            if self.finished:
                self.process.join(timeout=SETTLING)
            self.process.kill()
        self.process.join()
        self.process.close()
        self.events.close()
        self._lifeline.close()


def _node_main(job: Job, log: str, events: connection.Connection, lifeline: connection.Connection) -> None:
    """The node's process, from its first line to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides what an interrupt ends
    _die_with_parent()  # also while stopped, when no thread of ours can see that the controller is gone
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if job.entrance is not None:
        syscalls.enter(job.entrance.network, job.entrance.user)  # while there is one thread only
    threading.Thread(target=_end_with_controller, args=(lifeline,), name="lifeline", daemon=True).start()

    from node_agent import worker

    sending = threading.Lock()

    def emit(event: Event) -> None:
        with sending:
            events.send(event)
        if isinstance(event, Fault):
            with suppress(OSError):  # the log may be on a disk that is full; the controller has been told
                sys.stderr.write(event.traceback)
                sys.stderr.flush()

    worker.run(job, emit)
    # Receives are still posted for messages that will never come: there is nothing to tear down in an orderly way.
    os._exit(0)


def _die_with_parent() -> None:
    """The parent is the fork server, which ends with the controller, unless a node holds the pipe to it open."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    alive = multiprocessing.forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]
    if alive is not None:
        os.close(alive)


def _end_with_controller(lifeline: connection.Connection) -> None:
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started inside has the interrupt blocked that a terminal sends to all of its processes. One that arrives
    meanwhile is not lost: it comes afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
        if arrived:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for what is started inside; the libraries of a node would start a thread per core."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
