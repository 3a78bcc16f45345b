"""A file on its way to a board, from where a broken connection left it."""

from __future__ import annotations

import time
from pathlib import Path

from edgesim.fleet.client import BoardClient, BoardError, Rejected, Unreachable, printable
from node_agent.daemon.api import File, JobStatus

PAUSE = 0.5
"""s before a broken connection is tried again"""

MOST_CHECKS = 3
"""times that a file is sent whose checksum then differs"""


def upload(client: BoardClient, job: str, file: File, path: Path, patience: float) -> None:
    """Send a file that was announced, and wait until the board has found its checksum right.

    Raises BoardError where the board refuses it or ends the job, where it arrives damaged again and again, or where
    nothing of it gets through for `patience` s.
    """
    offset, checks, furthest = 0, 0, 0
    moved_at = time.monotonic()

    def sent(position: int) -> None:
        # What is sent once more is no progress: the buffers on the way take it also where nobody reads it.
        nonlocal furthest, moved_at
        if position > furthest:
            furthest, moved_at = position, time.monotonic()

    while True:
        try:
            if client.put(job, file.name, path, offset, sent).received == file.bytes:
                return
            trouble: BoardError = BoardError(client.name, f"{file.name}: took only a part of it")
        except Rejected as error:
            if error.code not in (408, 409, 422):
                raise
            trouble = error
        except Unreachable as error:
            trouble = error
        code = trouble.code if isinstance(trouble, Rejected) else None
        damaged = code == 422  # the board has thrown away what it had
        try:
            status = client.job(job)
        except Unreachable as error:
            arrived, trouble = (0, trouble) if damaged else (offset, error)
        else:
            if status.state == "ready":
                return
            if status.state != "staging":
                raise BoardError(client.name, f"{file.name}: not taken: {printable(status.error or status.state)}")
            arrived = _arrived(status, file)
        restarted = damaged or arrived < offset
        if restarted:
            checks, furthest = checks + 1, arrived
            if checks == MOST_CHECKS:
                raise trouble
        # Also a file of which nothing is missing is asked for once more: the answer says that its checksum is right.
        checking = code == 409 and arrived == offset == file.bytes
        if restarted or checking or arrived > offset:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > patience:
            raise trouble
        offset = arrived
        time.sleep(PAUSE)


def _arrived(status: JobStatus, file: File) -> int:
    received = next((one.received for one in status.files if one.name == file.name), 0)
    return received if 0 <= received <= file.bytes else 0
