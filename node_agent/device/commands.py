"""Runs a command that may hang, crash or be absent: each of these is an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GRACE = 2.0
"""s in which a process that was killed is gone, unless it belongs to somebody else"""

LONGEST = 64 * 1024
"""bytes of output that are read"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed, to either stream."""

    output: str
    fault: str
    """one line: why it is no success; empty if it is"""
    absent: bool = False
    """the command could not be started"""


def python(module: str) -> tuple[str, ...]:
    """The command that calls `main` of a module, found where this process finds its own: `-m` would look into the
    working directory first, which may hold what others have sent."""
    return (sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()")


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
        late = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            if process.returncode is None:
                _kill(process)
        printed.seek(0)
        output = printed.read(LONGEST).decode(errors="replace")
    return Ended(output, f"no answer within {limit:g} s" if late else _fault(process.returncode, output))


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(GRACE)
    except (PermissionError, subprocess.TimeoutExpired):
        # A process of root's (sudo), or one that the kernel holds: it is left to end by itself.
        return


def _fault(code: int, output: str) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {code}"
