"""The process of a job: in a session of its own, limited, stopped and let go on, ended with all that it started."""

from __future__ import annotations

import json
import os
import re
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from node_agent.daemon.api import RunTask, Task
from node_agent.device.backend import KEPT

LAUNCHER = Path(__file__).with_name("launch.py")

MARK = "EDGESIM_JOB"
"""environment variable by which a job's processes are known, also by a daemon that did not start them"""

HANDED_ON = (
    "VIRTUAL_ENV",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "TZ",
    "TZDIR",
)
"""what a job sees of the daemon's environment, and"""
SEARCHED = {"PATH": ":", "PYTHONPATH": ":", "LD_LIBRARY_PATH": ":;"}
"""lists of folders, by what separates them: those that are no absolute paths would be the job's own folder, or in it"""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

PYTHON = {"PYTHONUSERBASE": site.getuserbase(), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
"""modules come from where the daemon's do, and never from the job's own folder"""

GONE_WITHIN = 10.0
"""s in which the processes of an earlier daemon's job have to be gone after SIGKILL"""


Command = Callable[[int], Sequence[str]]
"""from the descriptor that events go to"""

Commanding = Callable[[Task, int | None], Command]
"""from a task and the descriptor of the socket at which nodes meet, if the job has one"""


@dataclass(frozen=True)
class Limits:
    cpus: tuple[int, ...] | None = None
    file_bytes: int | None = None
    """of each file that the job writes"""


def environment(job: str, folder: Path, probes: Path) -> dict[str, str]:
    """What a job's process has for its environment; `probes` is the file in which jobs keep what they have probed."""
    handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    searched = {name: path for name, separators in SEARCHED.items() if (path := _absolute(name, separators))}
    place = {"HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    return {**handed_on, **searched, **place, **PYTHON, **ONE_THREAD, KEPT: str(probes), MARK: job}


def _absolute(name: str, separators: str) -> str:
    """What of a list of folders in the daemon's environment is absolute; empty: nothing."""
    entries = re.split(f"[{separators}]", os.environ.get(name, ""))
    return os.pathsep.join(entry for entry in entries if os.path.isabs(entry))


def command_of(task: Task, listening: int | None) -> Command:
    """This package's own: nothing of what a controller says becomes a word of it."""
    program = (sys.executable, "-m", "node_agent")

    def run(events: int) -> Sequence[str]:
        meeting = () if listening is None else ("--listen", str(listening))
        return (*program, "run", "job.json", "--events", str(events), *meeting)

    def bench(events: int) -> Sequence[str]:
        quick = ("--quick",) if task.kind == "bench" and task.quick else ()
        return (*program, "bench", "--out", "result", *quick)

    return run if isinstance(task, RunTask) else bench


class Process:
    """A job's process, from its start until all of its session is gone."""

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        folder: Path,
        environment: Mapping[str, str],
        limits: Limits,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Starts it in `folder`. `command` is told the descriptor for events; the process keeps that one, those of
        `descriptors`, and what it prints. Raises OSError.
        """
        opened: list[int] = []
        try:
            self.events, events = _pipe(opened)
            self.output, output = _pipe(opened)
            lifeline, self._lifeline = _pipe(opened)
            guard, tell_guard = _pipe(opened)
            order = {
                "parent": os.getpid(),
                "lifeline": lifeline,
                "guard": tell_guard,
                "cpus": limits.cpus,
                "file_bytes": limits.file_bytes,
                "command": list(command(events)),
            }
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(order)],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(events, lifeline, tell_guard, *descriptors),
                start_new_session=True,
            )
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        for descriptor in (events, output, lifeline, tell_guard):
            os.close(descriptor)
        self._guard_told: int | None = guard
        self._guard: int | None = None
        self.pid = self._process.pid
        for descriptor in (self.events, self.output):
            os.set_blocking(descriptor, False)

    def when_over(self, call: Callable[[], None]) -> None:
        """Have `call` called, from a thread, once the process has ended; it is not reaped, so its number stays its
        own."""

        def wait() -> None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            call()

        threading.Thread(target=wait, name="job", daemon=True).start()

    def members(self) -> Iterator[int]:
        """The processes of the session."""
        for pid in psutil.pids():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == self.pid:
                    yield pid

    def memory(self) -> int:
        """Resident bytes of all of them; what they share counts for each."""
        total = 0
        for pid in self.members():
            with suppress(psutil.Error):
                total += psutil.Process(pid).memory_info().rss
        return total

    def cpu_s(self) -> float:
        """CPU time of those that are there."""
        total = 0.0
        for pid in self.members():
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def pause(self) -> None:
        """Stop all but the guard."""
        guard = self._guard_pid()
        for pid in self.members():
            if pid != guard:
                _send(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self.members():
            _send(pid, signal.SIGCONT)

    def kill(self) -> None:
        """End all of the session. To be called before `reap` only."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in self.members():
            _send(pid, signal.SIGKILL)

    def reap(self) -> int:
        """Its exit code, or minus the number of the signal that ended it; all else that is left of the session is
        ended first. To be called when it is over."""
        left = [pid for pid in self.members() if pid != self.pid]
        self.kill()
        code = self._process.wait()
        for pid in left:  # they are the daemon's own children where that is the first process of a container
            with suppress(ChildProcessError, OSError):
                os.waitpid(pid, os.WNOHANG)
        return code

    def close(self) -> None:
        for descriptor in (self.events, self.output, self._lifeline):
            os.close(descriptor)
        if self._guard_told is not None:
            os.close(self._guard_told)
            self._guard_told = None

    def _guard_pid(self) -> int | None:
        if self._guard is None and self._guard_told is not None:
            told = os.read(self._guard_told, 32)
            self._guard = int(told) if told else None
        return self._guard


def end_earlier(job: str) -> list[int]:
    """End what is left of a job that an earlier daemon started; returns the processes. Raises TimeoutError if one of
    them does not go."""
    mark = f"{MARK}={job}".encode()
    ended: list[int] = []
    deadline = time.monotonic() + GONE_WITHIN
    while found := [pid for pid in psutil.pids() if mark in _initial_environment(pid)]:
        for pid in found:
            _send(pid, signal.SIGKILL)
            if pid not in ended:
                ended.append(pid)
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {found[0]} of job {job} does not end")
        time.sleep(0.02)
    return ended


def how_it_ended(exit: int, last_step: int | None) -> str:
    """In words. `last_step` is None for what does not go by steps."""
    how = f"was killed by {_signal_name(-exit)}" if exit < 0 else f"ended early with exit code {exit}"
    if last_step is None:
        return how
    return f"{how} after step {last_step}" if last_step else f"{how} before its first step"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _initial_environment(pid: int) -> list[bytes]:
    """Empty for processes that are over, and those of other users."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _pipe(opened: list[int]) -> tuple[int, int]:
    read, write = os.pipe()
    opened += [read, write]
    return read, write
