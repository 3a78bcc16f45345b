from __future__ import annotations

import time

import pytest
from waiting import eventually

from edgesim.fleet.client import BoardError, Mistrusted, Rejected, Unreachable
from edgesim.fleet.listener import Heartbeat
from node_agent.daemon.api import JobStatus

LEASE = 0.3


class Renewing:
    """A board that raises what it is told to, one renewal after the other, and then takes them."""

    name = "b0"

    def __init__(self, *answers: BoardError) -> None:
        self.answers = list(answers)
        self.renewed = 0

    def renew(self, job: str, within: float) -> JobStatus:
        if self.answers:
            raise self.answers.pop(0)
        self.renewed += 1
        return JobStatus(id=job, run="r", owner="me", state="running", lease_s=LEASE, lease_left_s=LEASE)


@pytest.mark.parametrize(
    "trouble",
    [
        Unreachable("b0", "no answer"),
        Rejected("b0", "answered 503 without a reason", 503),
        Rejected("b0", "too many connections", 429),
        BoardError("b0", "answered what is none of its answers"),
    ],
)
def test_a_lease_is_renewed_again_after_trouble(trouble: BoardError) -> None:
    board = Renewing(trouble, trouble)
    heartbeat = Heartbeat(board, "j", LEASE)  # type: ignore[arg-type]
    try:
        eventually(lambda: board.renewed >= 2, 5.0)
    finally:
        heartbeat.stop()


@pytest.mark.parametrize(
    "refusal", [Rejected("b0", "not yours", 403), Rejected("b0", "no such job", 404), Mistrusted("b0", "revoked")]
)
def test_a_lease_that_is_not_ours_is_left(refusal: BoardError) -> None:
    board = Renewing(refusal)
    heartbeat = Heartbeat(board, "j", LEASE)  # type: ignore[arg-type]
    try:
        eventually(lambda: not board.answers, 5.0)
        time.sleep(LEASE)
        assert board.renewed == 0
    finally:
        heartbeat.stop()
