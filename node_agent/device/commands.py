"""Runs a command that may hang, crash or be absent: each of these is an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

GRACE = 2.0
"""s in which a process that was killed is gone, unless it belongs to somebody else"""

LOOK = 0.05
"""s between two looks at whether it has ended, at most"""

LONGEST = 64 * 1024
"""bytes of output that are read: the last ones, as failures tell their reason at last"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed, to either stream."""

    output: str
    fault: str
    """one line: why it is no success; empty if it is"""
    absent: bool = False
    """the command could not be started"""


def python(module: str, function: str) -> tuple[str, ...]:
    """The command that calls a function of a module, found where this process finds its own: `-m` would look into the
    working directory first, which may hold what others have sent."""
    call = f"from {module} import {function}; {function}()"
    return (sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {call}")


def run_limited(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end, or for `limit` s. Nothing is there for it to read; `environment` adds to this one."""
    # A file, not a pipe: what the command has started may hold a pipe open for longer than it lives.
    with tempfile.TemporaryFile() as printed:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            return Ended("", f"{command[0]}: {error.strerror}", absent=True)
        try:
            late = not _ends(process, limit)
        finally:
            _kill(process)
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - LONGEST))
        output = printed.read().decode(errors="replace")
    return Ended(output, f"no answer within {limit:g} s" if late else _fault(process.returncode, output))


def _ends(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Wait for the end of a process, which is not reaped: its number, which is its group's, stays its own."""
    deadline, pause = time.monotonic() + limit, 0.001
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, LOOK)
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left of its group, and reap it. A process of root's (sudo), or one that the kernel holds, is left to
    end by itself."""
    with suppress(PermissionError, ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def _fault(code: int, output: str) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"ended by {_name(-code)}"
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those between SIGRTMIN and SIGRTMAX have none
        return f"signal {number}"
