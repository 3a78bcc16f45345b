"""The first lines of a job's process: it takes its limits on, ties its life to the daemon's, and becomes the job.

Run as a script, by itself in a new session; what it is told stands in its only argument, as JSON. It imports the
standard library alone, so that it takes no time. Two things end the job when the daemon is gone, however it went: the
kernel's signal on the parent's death, which reaches this process only, and a guard in the same process group, which
waits for the end of a pipe that the daemon holds open.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1

GUARD = ("sh", "-c", "read -r line; kill -9 0")
"""the end of what it reads ends all of its process group, itself included"""

EXPENDABLE = 500
"""of -1000 to 1000: the kernel takes a job before its daemon when memory runs out"""


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        sys.exit("the agent ended while a job was being started")
    _guard(order["lifeline"], order["guard"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
    if order["cpus"] is not None:
        os.sched_setaffinity(0, order["cpus"])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(EXPENDABLE))
    command = order["command"]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def _guard(lifeline: int, tell: int) -> None:
    pid = os.fork()
    if pid:
        os.write(tell, str(pid).encode())
        os.close(lifeline)
        os.close(tell)
        return
    os.dup2(lifeline, 0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.execvp(GUARD[0], GUARD)


if __name__ == "__main__":
    main()
