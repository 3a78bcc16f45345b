"""Ending what runs on boards, from outside the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgesim.fleet.client import BoardClient, BoardError, printable
from edgesim.fleet.everywhere import everywhere

WITHIN = 20.0
"""s"""


def cancel_all(clients: Sequence[BoardClient]) -> Iterator[tuple[str, bool]]:
    """What became of each board, in words, and whether nothing runs there now."""
    for client, found in zip(clients, everywhere(clients, _cancel, WITHIN), strict=True):
        if isinstance(found, BoardError):
            yield str(found), False
        elif isinstance(found, TimeoutError):
            yield f"{client.name}: {found}", False
        elif isinstance(found, Exception):
            raise found
        else:
            yield f"{client.name}: {found}", True


def _cancel(client: BoardClient) -> str:
    job = client.health().job
    if job is None or job.lease_left_s is None:
        return "nothing runs there"
    ended = client.cancel(job.id).lease_left_s is None
    became = "is cancelled" if ended else "is being cancelled"
    return f"run {printable(job.run, 64)} of {printable(job.owner, 64)} {became}"
