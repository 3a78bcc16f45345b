"""A board measures itself: its device profile, made there and fetched."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgesim.fleet.base import FleetError
from edgesim.fleet.claiming import claim
from edgesim.fleet.client import BoardClient, BoardError, Unreachable, printable
from edgesim.fleet.listener import Heartbeat
from edgesim.fleet.remote import DEFAULT_LEASE
from node_agent.daemon.api import BenchTask, Claim, JobStatus

POLL = 0.5
"""s"""


def benchmark(client: BoardClient, quick: bool, tell: Callable[[str], None]) -> bytes:
    """The board's profile (YAML). Nothing is left on the board, also after an interrupt. Raises BoardError, and
    FleetError where the board is held by another run or fails."""
    status = claim(client, Claim(run="bench", lease_s=DEFAULT_LEASE), tell)
    heartbeat = Heartbeat(client, status.id, DEFAULT_LEASE)
    try:
        client.start(status.id, BenchTask(quick=quick))
        ended = _until_it_ends(client, status)
        if ended.state == "failed":
            log = client.log(status.id).decode(errors="replace").splitlines()
            words = "".join(f"\n  | {printable(line)}" for line in log[-5:])
            raise FleetError(f"{client.name}: {printable(ended.error or 'failed')}{words}")
        return client.result(status.id)
    finally:
        heartbeat.stop()
        _leave(client, status.id)


def _until_it_ends(client: BoardClient, status: JobStatus) -> JobStatus:
    heard_at = time.monotonic()
    while status.lease_left_s is not None:
        time.sleep(POLL)
        try:
            status = client.job(status.id)
            heard_at = time.monotonic()
        except Unreachable:
            if time.monotonic() - heard_at > DEFAULT_LEASE:
                raise
    return status


def _leave(client: BoardClient, job: str) -> None:
    """What cannot be cancelled ends by its lease."""
    for step in (client.cancel, client.forget):
        try:
            step(job)
        except BoardError:
            continue
