from __future__ import annotations

import time
from typing import Any

import pytest

from edgesim.fleet import claiming
from edgesim.fleet.base import FleetError
from edgesim.fleet.claiming import claim
from edgesim.fleet.client import Rejected, Unreachable
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
    monkeypatch.setattr(claiming, "ENDING", 0.8)


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
    assert time.monotonic() - board.began < 2.0


def test_a_board_is_waited_for_that_takes_long_to_end_a_job() -> None:
    board, said = Held(0.1, None), list[str]()
    held = board.job

    def job() -> JobStatus | None:
        ended = time.monotonic() - board.began > 0.6  # longer than its lease and the grace
        return held() or (None if ended else _running(lease_left_s=0.0))

    board.job = job  # type: ignore[method-assign]
    assert claim(board, WANTED, said.append).run == "mine"  # type: ignore[arg-type]
    assert said[-1] == (
        "b0: held by bob, run theirs (running), whose lease has ended; its board may take a while to end it"
    )
    stuck = Held(0.1, None)
    stuck.job = lambda: _running(lease_left_s=0.0)  # type: ignore[method-assign]
    with pytest.raises(FleetError, match=r"theirs \(running\), which its board has not ended within 0\.8 s"):
        claim(stuck, WANTED, said.append)  # type: ignore[arg-type]


def _running(**fields: Any) -> JobStatus:
    return JobStatus(id="a", run="theirs", owner="bob", state="running", lease_s=0.3, **fields)


class Losing:
    """A board that takes a claim, whose answer is lost; `renewed` tells that somebody else renews the job."""

    name = "b0"
    address = "here"
    answer_within = 1.0

    def __init__(self, lost: int, takes: bool = True, renewed: bool = False, ours: bool = True) -> None:
        self.lost, self.takes, self.renewed, self.ours = lost, takes, renewed, ours
        self.taken_at: float | None = None

    def job(self) -> JobStatus:
        left = 5.0 if self.renewed or self.taken_at is None else 5.0 - (time.monotonic() - self.taken_at)
        return JobStatus(id="c", run="mine", owner="me", state="ready", lease_s=5.0, lease_left_s=left)

    def claim(self, wanted: Claim) -> JobStatus:
        if self.taken_at is not None:
            raise Rejected("b0", "in the way", 409, self.job())
        if self.takes:
            self.taken_at = time.monotonic()
        if self.lost:
            self.lost -= 1
            raise Unreachable("b0", "no answer")
        self.taken_at = time.monotonic()
        return self.job()

    def renew(self, job: str, within: float) -> JobStatus:
        if not self.ours:
            raise Rejected("b0", "job: found me, allowed them", 403, self.job())
        self.taken_at = time.monotonic()
        return self.job()

    def health(self) -> Health:
        common: dict[str, Any] = {"name": "b0", "version": "1", "uptime_s": 1.0, "time_s": 1.0, "monotonic_s": 1.0}
        return Health(**common, state="ready", job=self.job())


@pytest.mark.parametrize("board", [Losing(1), Losing(3, takes=False)])
def test_an_answer_that_is_lost_is_asked_for_again(board: Losing) -> None:
    said: list[str] = []
    assert claim(board, WANTED, said.append).id == "c"  # type: ignore[arg-type]
    assert said == ["b0: no answer; asked again for up to 5 s"]


def test_another_job_of_that_name_is_not_taken_over() -> None:
    with pytest.raises(FleetError, match=r"b0: held by me, run mine \(ready\), whose controller is there"):
        claim(Losing(1, renewed=True), WANTED, lambda line: None)  # type: ignore[arg-type]
    others = Losing(1, ours=False)
    others.renew = _renewed_by_them(others, others.renew)  # type: ignore[method-assign]
    with pytest.raises(FleetError, match="whose controller is there"):
        claim(others, WANTED, lambda line: None)  # type: ignore[arg-type]


def _renewed_by_them(board: Losing, renew: Any) -> Any:
    def refuse(job: str, within: float) -> JobStatus:
        board.renewed = True
        found: JobStatus = renew(job, within)
        return found

    return refuse


def test_a_board_that_never_answers_is_asked_for_as_long_as_the_lease() -> None:
    wanted = Claim(run="mine", lease_s=1.0)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="b0: no answer"):
        claim(Losing(999, takes=False), wanted, lambda line: None)  # type: ignore[arg-type]
    assert 1.0 < time.monotonic() - began < 3.0


def test_a_board_is_taken_once() -> None:
    board = Losing(0)
    claim(board, WANTED, lambda line: None)  # type: ignore[arg-type]
    board.name = "b1"
    with pytest.raises(FleetError, match=r"^b1: here is the board that b0 is, allowed a board of its own for every"):
        claim(board, WANTED, lambda line: None, {"c": "b0"})  # type: ignore[arg-type]


def test_other_refusals_are_the_boards_own() -> None:
    board = Held(1.0, None)

    def refuse(wanted: Claim) -> JobStatus:
        raise Rejected("b0", "disk full", 507)

    board.claim = refuse  # type: ignore[method-assign]
    with pytest.raises(Rejected, match="b0: disk full"):
        claim(board, WANTED, lambda line: None)  # type: ignore[arg-type]
