from __future__ import annotations

import time
from typing import Any

import pytest

from edgesim.fleet import claiming
from edgesim.fleet.base import FleetError
from edgesim.fleet.claiming import claim
from edgesim.fleet.client import Rejected
from node_agent.daemon.api import Claim, Health, JobStatus

WANTED = Claim(run="mine", lease_s=5.0)


class Held:
    """A board that another run holds until its lease runs out; a controller that is there renews it."""

    name = "b0"

    def __init__(self, lease: float, renewed_every: float | None) -> None:
        self.began = time.monotonic()
        self.lease, self.every = lease, renewed_every
        self.asked = 0

    def job(self) -> JobStatus | None:
        passed = time.monotonic() - self.began
        left = self.lease - (passed if self.every is None else passed % self.every)
        fields = {"id": "a", "run": "theirs\x1b", "owner": "alice@lab", "state": "running", "lease_s": self.lease}
        return JobStatus(**fields, lease_left_s=left) if left > 0 else None  # type: ignore[arg-type]

    def claim(self, wanted: Claim) -> JobStatus:
        self.asked += 1
        job = self.job()
        if job is not None:
            raise Rejected("b0", "job: in the way", 409, job)
        return JobStatus(id="b", run=wanted.run, owner="me", state="staging", lease_s=5.0, lease_left_s=5.0)

    def health(self) -> Health:
        job = self.job()
        common: dict[str, Any] = {"name": "b0", "version": "1", "uptime_s": 1.0, "time_s": 1.0, "monotonic_s": 1.0}
        return Health(**common, state="running" if job else "failed", job=job)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "POLL", 0.05)
    monkeypatch.setattr(claiming, "GRACE", 0.2)


def test_a_silent_controllers_lease_is_waited_for() -> None:
    board, said = Held(0.5, None), list[str]()
    found = claim(board, WANTED, said.append)  # type: ignore[arg-type]
    assert found.run == "mine"
    assert time.monotonic() - board.began >= 0.5
    held = "b0: held by alice@lab, run theirs (running); if its controller is gone, its lease ends within"
    assert len(said) == 1
    assert said[0].startswith(held)


def test_a_controller_that_is_there_is_respected() -> None:
    board = Held(5.0, 0.3)
    with pytest.raises(FleetError) as caught:
        claim(board, WANTED, lambda line: None)  # type: ignore[arg-type]
    assert str(caught.value) == "b0: held by alice@lab, run theirs (running), whose controller is there"
    assert time.monotonic() - board.began < 1.0


def test_nobody_is_waited_for_without_end() -> None:
    board = Held(0.3, None)
    board.job = lambda: JobStatus(  # type: ignore[method-assign]
        id="a", run="theirs", owner="bob", state="running", lease_s=0.3, lease_left_s=None
    )
    with pytest.raises(FleetError, match="b0: still held by bob, run theirs"):
        claim(board, WANTED, lambda line: None)  # type: ignore[arg-type]
    assert time.monotonic() - board.began < 1.0


def test_other_refusals_are_the_boards_own() -> None:
    board = Held(1.0, None)

    def refuse(wanted: Claim) -> JobStatus:
        raise Rejected("b0", "disk full", 507)

    board.claim = refuse  # type: ignore[method-assign]
    with pytest.raises(Rejected, match="b0: disk full"):
        claim(board, WANTED, lambda line: None)  # type: ignore[arg-type]
