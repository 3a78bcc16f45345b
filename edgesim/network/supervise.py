"""Runs a command inside a node's namespaces, and ends it with all of its descendants when its controller is gone.

    python -m edgesim.network.supervise LIFELINE NETWORK USER COMMAND…

LIFELINE is the descriptor of a pipe: each byte read from it is the number of a signal for the command's process group,
and its end means that nobody listens any more. NETWORK and USER are the paths of the namespaces, USER empty for none.
Ends as the command did (128 + n where a signal did it), or with 126 or 127, as shells do, where it cannot be started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from edgesim.network.syscalls import adopt_descendants, enter

NOT_EXECUTABLE, NOT_FOUND = 126, 127


def end_descendants() -> None:
    """Also of those that have put themselves into a session of their own."""
    me = psutil.Process()
    while left := me.children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=0.2)


def _obey(lifeline: int, group: int) -> None:
    while order := os.read(lifeline, 1):
        with suppress(ProcessLookupError):
            os.killpg(group, order[0])
    end_descendants()
    os._exit(128 + signal.SIGKILL)


def main() -> None:
    lifeline, network, user, *command = sys.argv[1:]
    listening = int(lifeline)
    os.set_inheritable(listening, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    adopt_descendants()
    try:
        enter(network, user or None)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_as_if_started_by_a_shell)
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
