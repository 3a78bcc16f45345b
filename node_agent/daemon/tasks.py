"""The command of a job's process, by what it is to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from node_agent.daemon.api import RunTask, Task

Command = Callable[[int], Sequence[str]]
"""from the descriptor that events go to"""

Commanding = Callable[[Task, int | None], Command]
"""from a task and the descriptor of the socket at which nodes meet, if the job has one"""


def command(task: Task, listening: int | None) -> Command:
    """This package's own: nothing of what a controller says becomes a word of it."""
    program = (sys.executable, "-m", "node_agent")

    def run(events: int) -> Sequence[str]:
        meeting = () if listening is None else ("--listen", str(listening))
        return (*program, "run", "job.json", "--events", str(events), *meeting)

    def bench(events: int) -> Sequence[str]:
        quick = ("--quick",) if task.kind == "bench" and task.quick else ()
        return (*program, "bench", "--out", "result", *quick)

    return run if isinstance(task, RunTask) else bench
