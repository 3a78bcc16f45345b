"""Taking a board for a run, and what to do where another run holds it."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgesim.fleet.base import FleetError
from edgesim.fleet.client import BoardClient, Rejected, printable
from node_agent.daemon.api import Claim, JobStatus

POLL = 0.5
"""s between two looks at a job in the way"""

GRACE = 2.0
"""s beyond its lease for which a silent controller's job is waited for"""

Tell = Callable[[str], None]


def claim(client: BoardClient, wanted: Claim, tell: Tell) -> JobStatus:
    """Reserve a board.

    A job in the way whose controller says nothing is waited for: it ends with its lease. Any other is respected.

    Raises FleetError where the board is held, and BoardError.
    """
    until: float | None = None
    while True:
        try:
            return client.claim(wanted)
        except Rejected as error:
            if error.code != 409 or error.status is None:
                raise
            job = error.status
        now = time.monotonic()
        if until is None:
            until = now + min(job.lease_left_s or 0.0, job.lease_s) + GRACE
            tell(
                f"{client.name}: held by {_who(job)}; if its controller is gone, its lease ends within "
                f"{job.lease_left_s or 0.0:.0f} s"
            )
        if now >= until:
            raise FleetError(f"{client.name}: still held by {_who(job)}, whose lease should have ended")
        if not _silent(client, job):
            raise FleetError(f"{client.name}: held by {_who(job)}, whose controller is there")


def _silent(client: BoardClient, job: JobStatus) -> bool:
    """Whether a job's lease was not renewed while one looked."""
    before, seen_at = job.lease_left_s, time.monotonic()
    time.sleep(POLL)
    # The lease is renewed by what its owner does, not by what anybody reads, also where the owner has our own name.
    now = client.health().job
    if before is None or now is None or now.id != job.id or now.lease_left_s is None:
        return True
    # What passed meanwhile is missing in a lease that nobody renewed.
    return now.lease_left_s <= before - (time.monotonic() - seen_at) / 2


def _who(job: JobStatus) -> str:
    return f"{printable(job.owner, 64)}, run {printable(job.run, 64)} ({job.state})"
