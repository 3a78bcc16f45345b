"""A file on its way to a board, from where a broken connection left it."""

from __future__ import annotations

import time
from pathlib import Path

from edgesim.fleet.client import BoardClient, BoardError, Rejected, Unreachable
from node_agent.daemon.api import File, JobStatus

PAUSE = 0.5
"""s before a broken connection is tried again"""

MOST_CHECKS = 3
"""times that a file is sent whose checksum then differs"""


def upload(client: BoardClient, job: str, file: File, path: Path, patience: float) -> None:
    """Send a file that was announced. Raises BoardError where the board refuses it, where it arrives damaged again and
    again, or where nothing of it gets through for `patience` s."""
    offset, checks = 0, 0
    moved_at = time.monotonic()
    while True:
        try:
            if client.put(job, file.name, path, offset).received == file.bytes:
                return
            trouble: BoardError = BoardError(client.name, f"{file.name}: took only a part of it")
        except Rejected as error:
            if error.code == 422:
                checks += 1
            if error.code not in (408, 409, 422) or checks == MOST_CHECKS:
                raise
            trouble = error
        except Unreachable as error:
            trouble = error
        try:
            arrived = _arrived(client.job(job), file)
        except Unreachable as error:
            arrived, trouble = offset, error
        # Also a file of which nothing is missing is asked for once more: the answer says that its checksum is right.
        if arrived > offset:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > patience:
            raise trouble
        offset = arrived
        time.sleep(PAUSE)


def _arrived(status: JobStatus, file: File) -> int:
    received = next((one.received for one in status.files if one.name == file.name), 0)
    return received if 0 <= received <= file.bytes else 0
