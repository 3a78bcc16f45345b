"""Runs a command inside a node's namespaces, and ends it with all of its descendants when its controller is gone.

    python -m edgesim.network.supervise LIFELINE NETWORK USER FOLDER COMMAND…

LIFELINE is the descriptor of a pipe: each byte read from it is the number of a signal for the command's process group,
and its end means that nobody listens any more. NETWORK and USER are the paths of the namespaces, USER empty for none;
FOLDER is where the command starts. Ends as the command did (128 + n where a signal did it), or with 126 or 127, as
shells do, where it cannot be started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from edgesim.network.syscalls import adopt_descendants, enter

NOT_EXECUTABLE, NOT_FOUND = 126, 127

PATIENCE = 5.0
"""s for which a killed process may take to be gone"""


def end_descendants(patience: float = PATIENCE) -> None:
    """Also of those that have put themselves into a session of their own. What is not gone `patience` seconds later is
    named on standard error: it belongs to another user, or the kernel holds it up."""
    me = psutil.Process()
    deadline = time.monotonic() + patience
    while left := me.children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        psutil.wait_procs(left, timeout=0.2)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            print(f"edgesim: process {pids} does not end", file=sys.stderr, flush=True)
            return


def _obey(lifeline: int, group: int) -> None:
    while order := os.read(lifeline, 1):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, order[0])
    end_descendants()
    os._exit(128 + signal.SIGKILL)


def main() -> None:
    lifeline, network, user, folder, *command = sys.argv[1:]
    listening = int(lifeline)
    os.set_inheritable(listening, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    adopt_descendants()
    try:
        enter(network, user or None)
    except OSError as error:
        print(f"edgesim: the node's network cannot be entered: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_EXECUTABLE)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder, preexec_fn=_as_if_started_by_a_shell)
    except OSError as error:
        print(f"edgesim: {error.filename or Path(command[0])}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)
    threading.Thread(target=_obey, args=(listening, child.pid), daemon=True).start()
    code = child.wait()
    end_descendants()
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)


def _as_if_started_by_a_shell() -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
