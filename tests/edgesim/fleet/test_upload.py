from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgesim.fleet import upload as module
from edgesim.fleet.client import BoardError, Rejected, Unreachable
from edgesim.fleet.upload import upload
from node_agent.daemon.api import File, JobStatus, Received

CONTENT = bytes(range(100))
FILE = File(name="shard.npy", bytes=100, sha256=hashlib.sha256(CONTENT).hexdigest())


class Taking:
    """A board that answers one upload after the other as it is told: bytes that it takes before the connection breaks
    (None: all of them), or what it raises. A string is a job's state from then on.

    Each upload takes `duration` s; `silent` is how many questions about the job it leaves without answer.
    """

    name = "b0"

    def __init__(
        self,
        answers: Sequence[int | BoardError | str | None],
        arrived: int = 0,
        duration: Sequence[float] = (),
        silent: int = 0,
    ) -> None:
        self.answers = list(answers)
        self.arrived = arrived
        self.duration = list(duration)
        self.silent = silent
        self.state = "staging"
        self.offsets: list[int] = []

    def put(self, job: str, name: str, path: Path, offset: int, sent: Callable[[int], None]) -> Received:
        self.offsets.append(offset)
        if self.duration:
            time.sleep(self.duration.pop(0))
            sent(offset + 10)
        answer = self.answers.pop(0) if self.answers else 0
        if answer is None:
            self.arrived = 100
            raise Unreachable("b0", "the connection broke behind the last byte")
        if isinstance(answer, str):
            self.state = answer
            raise Rejected("b0", f"found {answer}, allowed staging", 409)
        if isinstance(answer, BoardError):
            raise answer
        self.arrived = min(100, offset + answer)
        if self.arrived < 100:
            raise Unreachable("b0", "the connection broke")
        return Received(name=name, bytes=100, received=100)

    def job(self, job: str) -> JobStatus:
        if self.silent:
            self.silent -= 1
            raise Unreachable("b0", "no answer")
        fields: dict[str, Any] = {"id": job, "run": "r", "owner": "me", "state": self.state, "lease_s": 1.0}
        files = (Received(name="shard.npy", bytes=100, received=self.arrived),)
        return JobStatus(**fields, lease_left_s=1.0, files=files)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.01)


def sent(board: Taking, folder: Path) -> list[int]:
    path = folder / "shard.npy"
    path.write_bytes(CONTENT)
    upload(board, "j", FILE, path, 0.1)  # type: ignore[arg-type]
    return board.offsets


@pytest.mark.parametrize(
    ("answers", "offsets"),
    [
        ([100], [0]),
        ([30, 0, 40, 30], [0, 30, 30, 70]),
        ([Unreachable("b0", "no connection"), 100], [0, 0]),
        ([Rejected("b0", "too slow", 408), 100], [0, 0]),
        ([50, Rejected("b0", "checksum", 422), 50], [0, 50, 50]),
        ([None, Rejected("b0", "its checksum is being computed", 409), 0], [0, 100, 100]),
    ],
)
def test_it_goes_on_where_it_broke(answers: list[Any], offsets: list[int], tmp_path: Path) -> None:
    assert sent(Taking(answers), tmp_path) == offsets


def test_an_offset_that_is_another_is_taken_from_the_board(tmp_path: Path) -> None:
    board = Taking([Rejected("b0", "offset: found 0, allowed 60", 409), 40], arrived=60)
    assert sent(board, tmp_path) == [0, 60]


@pytest.mark.parametrize(
    ("answers", "message", "tries"),
    [
        ([Rejected("b0", "more than announced", 413)], "b0: more than announced", 1),
        ([Rejected("b0", "sha256 differs", 422)] * 9, "b0: sha256 differs", 3),
    ],
)
def test_what_a_board_refuses_is_told(answers: list[Any], message: str, tries: int, tmp_path: Path) -> None:
    board = Taking(answers)
    with pytest.raises(Rejected, match=message):
        sent(board, tmp_path)
    assert len(board.offsets) == tries


def test_nobody_waits_for_a_board_that_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="b0: the connection broke"):
        sent(Taking([10]), tmp_path)


CHECKING = Rejected("b0", "its checksum is being computed", 409)


def test_a_checksum_takes_as_long_as_it_takes(tmp_path: Path) -> None:
    board = Taking([None, *[CHECKING] * 20, 0])  # far longer than the patience
    assert sent(board, tmp_path) == [0, *[100] * 21]


def test_a_file_that_the_board_checks_meanwhile_is_whole(tmp_path: Path) -> None:
    assert sent(Taking([None, "ready"]), tmp_path) == [0, 100]


def test_a_job_that_has_ended_takes_no_more(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"b0: shard\.npy: not taken: failed"):
        sent(Taking([30, "failed"]), tmp_path)


def test_nobody_has_lost_patience_while_the_file_was_on_its_way(tmp_path: Path) -> None:
    board = Taking([Unreachable("b0", "the connection broke"), 100], duration=[0.2], silent=1)
    assert sent(board, tmp_path) == [0, 0]


def test_a_damaged_file_gets_its_next_try_however_long_it_took(tmp_path: Path) -> None:
    assert sent(Taking([Rejected("b0", "sha256 differs", 422), 100], duration=[0.2]), tmp_path) == [0, 0]
    lost = Taking([None, Rejected("b0", "offset: found 100, allowed 0", 409), 100], duration=[0.0, 0.2])
    lost.job = lambda job, ask=lost.job: ask(job) if len(lost.offsets) != 2 else _emptied(lost, ask(job))  # type: ignore
    assert sent(lost, tmp_path) == [0, 100, 0]


def _emptied(board: Taking, status: JobStatus) -> JobStatus:
    board.arrived = 0
    return status.model_copy(update={"files": (Received(name="shard.npy", bytes=100, received=0),)})


def test_what_is_only_sent_again_is_no_progress(tmp_path: Path) -> None:
    board = Taking([Unreachable("b0", "the connection broke")] * 99, duration=[0.04] * 99)
    with pytest.raises(Unreachable):
        sent(board, tmp_path)
    assert len(board.offsets) < 9
