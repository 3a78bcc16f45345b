"""Taking a board for a run, and what to do where another run holds it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edgesim.fleet.base import FleetError
from edgesim.fleet.client import BoardClient, Rejected, Unreachable, printable
from node_agent.daemon.api import Claim, JobStatus
from node_agent.device import power

POLL = 0.5
"""s between two looks at a job in the way, or two tries to reach a board"""

GRACE = 2.0
"""s beyond its lease after which a silent controller's job is being ended"""

ENDING = 5.0 + power.CALLS * power.LIMIT
"""s that a board may take to end a job's processes, and to be in the power mode from before"""

Tell = Callable[[str], None]


def claim(client: BoardClient, wanted: Claim, tell: Tell, claimed: Mapping[str, str] | None = None) -> JobStatus:
    """Reserve a board.

    A job in the way whose controller says nothing is waited for: it ends with its lease, once its board has ended its
    processes. Any other is respected. A board that does not answer is asked again for as long as the lease; where it
    has taken the claim all the same, that is the job.

    Args:
        claimed: the boards that this run has already, by their jobs.

    Raises:
        FleetError: the board is held, or is one that this run has already.
        BoardError: it cannot be claimed.
    """
    claimed = claimed or {}
    away_since: float | None = None
    lost = ending = False
    until: float | None = None
    while True:
        try:
            return client.claim(wanted)
        except Unreachable as error:
            lost = True
            if away_since is None:
                away_since = time.monotonic()
                tell(f"{error}; asked again for up to {wanted.lease_s:g} s")
            elif time.monotonic() - away_since > wanted.lease_s:
                raise
            time.sleep(POLL)
            continue
        except Rejected as error:
            if error.code != 409 or error.status is None:
                raise
            job, away_since = error.status, None
        if job.id in claimed:
            raise FleetError(
                f"{client.name}: {client.address} is the board that {claimed[job.id]} is, allowed a board of its own "
                "for every node"
            )
        if lost and _as_wanted(job, wanted):
            taken = _taken_over(client, job)
            if taken is not None:
                return taken
        now, left = time.monotonic(), job.lease_left_s or 0.0
        if job.state == "running" and not left:
            if not ending:
                ending, until = True, now + ENDING
                tell(f"{client.name}: held by {_who(job)}, whose lease has ended; its board may take a while to end it")
        elif until is None:
            until = now + min(left, job.lease_s) + GRACE
            tell(f"{client.name}: held by {_who(job)}; if its controller is gone, its lease ends within {left:.0f} s")
        assert until is not None
        if now >= until:
            so = f"which its board has not ended within {ENDING:g} s" if ending else "whose lease should have ended"
            raise FleetError(f"{client.name}: still held by {_who(job)}, {so}")
        if not _silent(client, job):
            raise FleetError(f"{client.name}: held by {_who(job)}, whose controller is there")


def _as_wanted(job: JobStatus, wanted: Claim) -> bool:
    """Whether it may have come of our claim: nothing has happened to it."""
    files = [(file.name, file.bytes, 0) for file in wanted.files]
    found = [(file.name, file.bytes, file.received) for file in job.files]
    return (job.run, job.lease_s, found) == (wanted.run, wanted.lease_s, files) and job.state in ("staging", "ready")


def _taken_over(client: BoardClient, job: JobStatus) -> JobStatus | None:
    """The job, if it is ours and nobody else renews it; None if not, or where the board does not say."""
    try:
        return client.renew(job.id, within=client.answer_within) if _silent(client, job) else None
    except Unreachable:
        return None
    except Rejected as error:
        if error.code not in (403, 404):
            raise
        return None


def _silent(client: BoardClient, job: JobStatus) -> bool:
    """Whether no renewal of a job's lease was seen while one looked."""
    before, seen_at = job.lease_left_s, time.monotonic()
    time.sleep(POLL)
    # Its owner renews a lease by all that it asks of the job but by what it reads. This is read: the owner may be us.
    try:
        now = client.health().job
    except Unreachable:
        return True
    if before is None or now is None or now.id != job.id or now.lease_left_s is None:
        return True
    # What passed meanwhile is missing in a lease that nobody renewed.
    return not now.lease_left_s or now.lease_left_s <= before - (time.monotonic() - seen_at) / 2


def _who(job: JobStatus) -> str:
    return f"{printable(job.owner, 64)}, run {printable(job.run, 64)} ({job.state})"
