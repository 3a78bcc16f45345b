from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    (None: all of them), or what it raises."""

    name = "b0"

    def __init__(self, answers: Sequence[int | BoardError | None], arrived: int = 0) -> None:
        self.answers = list(answers)
        self.arrived = arrived
        self.offsets: list[int] = []

    def put(self, job: str, name: str, path: Path, offset: int) -> Received:
        self.offsets.append(offset)
        answer = self.answers.pop(0) if self.answers else 0
        if answer is None:
            self.arrived = 100
            raise Unreachable("b0", "the connection broke behind the last byte")
        if isinstance(answer, BoardError):
            raise answer
        self.arrived = min(100, offset + answer)
        if self.arrived < 100:
            raise Unreachable("b0", "the connection broke")
        return Received(name=name, bytes=100, received=100)

    def job(self, job: str) -> JobStatus:
        fields: dict[str, Any] = {"id": job, "run": "r", "owner": "me", "state": "staging", "lease_s": 1.0}
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
