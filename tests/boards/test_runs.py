"""Runs over three boards: namespaces with daemons and certificates of their own, that share no file and no clock."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from laboratory import Lab, ended, nothing_left, summary, training
from shelf import Board


def events(out: Path, kind: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def strips(board: Board) -> set[Path]:
    return set(board.data.rglob("*.npy"))


@pytest.mark.parametrize("more", [(), ("--compressor", "topk"), ("--clock", "virtual")])
def test_boards_train_as_processes_of_this_host_do(lab: Lab, more: tuple[str, ...]) -> None:
    on_boards, here = lab.out(), lab.out()
    lab.shelf.run(*lab.on_boards(on_boards, 25, *more))
    lab.shelf.run(*lab.words(here, 25, *more))
    boards, local = summary(on_boards), summary(here)
    assert boards["params_sha256"] == local["params_sha256"]
    assert boards["metrics"]["auc"] == local["metrics"]["auc"]
    assert boards["bytes_sent"] == local["bytes_sent"]
    assert (boards["fleet"], local["fleet"]) == ("boards", "local")


def test_clocks_that_differ_are_told_and_do_not_disturb_the_links(lab: Lab) -> None:
    out = lab.out()
    lab.shelf.run(*lab.on_boards(out, 25))
    offsets = {str(event["node"]): event["offset_s"] for event in events(out, "clockoffset")}
    assert offsets == pytest.approx({"n0": 1000, "n1": 1000, "n2": -2000}, abs=0.05)  # as the shelf sets them
    for link in summary(out)["links"].values():
        assert 0 < link["measured"]["delay_s"] < 0.1  # 2 ms were asked for, on a host that is busy
    boards = json.loads((out / "config.json").read_text())["fleet"]["boards"]
    assert boards.keys() == {"n0", "n1", "n2"}
    assert all(abs(board["offset_s"]) < 1 for board in boards.values())


def test_a_board_has_its_own_lines_and_sees_no_other_file(lab: Lab) -> None:
    lines, samples, bands = 145, 145, 200  # of Indian Pines
    out = lab.out()
    kept = {path for board in lab.shelf.boards for path in strips(board)}  # of jobs that were cut off from their run
    run = training(lab, out)
    for rank, board in enumerate(lab.shelf.boards):
        seen = subprocess.run(board.command("ls", str(lab.shelf.folder)), capture_output=True, text=True, check=True)
        assert set(seen.stdout.split()) == {"agent", "agent.yaml"}
        (strip,) = strips(board) - kept
        own = lines * (rank + 1) // 3 - lines * rank // 3
        assert strip.stat().st_size == 128 + 4 * own * samples * bands
    keys = [next(board.data.rglob("key.pem")) for board in lab.shelf.boards]
    assert len({key.read_bytes() for key in keys}) == len(keys)
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    run.send_signal(signal.SIGINT)
    ended(run, out, 130)
    nothing_left(lab)
    assert {path for board in lab.shelf.boards for path in strips(board)} <= kept
