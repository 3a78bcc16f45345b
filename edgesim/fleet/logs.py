"""What a job printed on its board: copied into a file here, or shown as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from edgesim.fleet.base import FleetError
from edgesim.fleet.client import LARGEST_LOG, BoardClient, BoardError, Rejected, Unreachable, printable_lines

POLL = 0.5
"""s between two looks for more"""

PATIENCE = 30.0
"""s for which a board that does not answer is waited for"""


def fetch_log(client: BoardClient, job: str, path: Path) -> None:
    """Append to `path` what it does not hold yet. Raises BoardError, also where the file cannot be written."""
    try:
        with path.open("ab") as file:
            while (offset := file.tell()) < LARGEST_LOG:
                part = client.log(job, offset)
                if not part:
                    return
                file.write(part)
                file.flush()
    except OSError as error:
        raise BoardError(client.name, f"its log: {path}: cannot be written: {error.strerror}") from error


def lines_of(client: BoardClient, follow: bool) -> Iterator[str]:
    """What a board's present or last job printed, fit for a terminal; with `follow`, until it has ended. Raises
    FleetError where there is no job, and BoardError."""
    jobs = client.jobs()
    if not jobs:
        raise FleetError(f"{client.name}: there is no job, and none is kept")
    job, offset, rest, heard_at = jobs[0], 0, b"", time.monotonic()
    while True:
        ended = job.lease_left_s is None  # asked before the log is: what was printed at last is not missed
        try:
            while part := client.log(job.id, offset):
                offset += len(part)
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield printable_lines(line.decode(errors="replace"))
            if ended or not follow:
                break
            time.sleep(POLL)
            job = next((one for one in client.jobs() if one.id == job.id), job)
            heard_at = time.monotonic()
        except Unreachable:
            if not follow or time.monotonic() - heard_at > PATIENCE:
                raise
        except Rejected as error:
            if error.code != 404 or not offset:
                raise
            break  # who owned it has left the board
    if rest:
        yield printable_lines(rest.decode(errors="replace"))
