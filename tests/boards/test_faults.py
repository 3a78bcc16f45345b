"""Each way in which a run over boards may lose a part of itself: one clear message, nothing left behind, nothing that
was measured lost, and the next run needs no hand."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time

import psutil
from laboratory import LEASE, Lab, ended, last_steps, nothing_left, steps, summary, training, wait_until, worker
from shelf import PATIENCE

STARTING = 40.0
"""s that a run of three steps may take on boards that are free"""


def usable(lab: Lab) -> None:
    out = lab.out()
    lab.shelf.run(*lab.on_boards(out, 3))
    assert summary(out)["nodes_agree"]
    assert summary(out)["status"] == "finished"


def first(said: str) -> str:
    return said.splitlines()[0]


def test_a_worker_that_is_killed(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    os.kill(worker(lab.shelf.boards[1]).pid, signal.SIGKILL)
    said, last = ended(run, out)
    assert f"node n1 (rank 1) was killed by SIGKILL after step {last['n1']}" in first(said), said
    nothing_left(lab)
    usable(lab)


def test_a_daemon_that_is_killed(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    board = lab.shelf.boards[1]
    orphan = worker(board)
    assert board.daemon is not None
    board.daemon.kill()
    board.daemon.wait()
    wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the worker goes on", 10)
    said, _ = ended(run, out, there=("n0", "n2"))
    assert "n1" in first(said), said
    nothing_left(lab, ("n0", "n2"))
    board.serve()  # as systemd does
    status = lab.shelf.run("fleet", "status", "--json").stdout
    assert "restarted" in status, status
    usable(lab)


def test_a_daemon_that_is_killed_and_started_again_at_once(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    board = lab.shelf.boards[2]
    assert board.daemon is not None
    board.daemon.kill()
    board.daemon.wait()
    board.serve()
    said, _ = ended(run, out, there=("n0", "n1"))
    assert "n2" in first(said), said
    assert "restarted" in said, said
    nothing_left(lab)
    usable(lab)


def test_a_controller_that_is_killed(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    assert all(board.processes() for board in lab.shelf.boards)
    run.kill()
    run.communicate()
    began = time.monotonic()
    usable(lab)  # waits for the lease by itself
    assert time.monotonic() - began < LEASE + STARTING
    nothing_left(lab)
    (found,) = json.loads(lab.shelf.run("compare", str(out), "--json").stdout)["runs"]
    assert (found["status"], found["steps"]) == ("killed", min(last_steps(out).values()))


def test_a_controller_that_is_interrupted(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    run.send_signal(signal.SIGINT)
    assert first(ended(run, out, 130)[0]) == "edgesim: interrupted"
    nothing_left(lab)
    usable(lab)


def test_a_second_controller_is_refused_while_a_run_goes_on(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    done = lab.shelf.run(*lab.on_boards(lab.out(), 3), status=1)
    assert re.search(r"n0: .*run-\d+", done.stderr), done.stderr
    before = steps(out)
    wait_until(lambda: steps(out) > before, "the first run was disturbed")
    run.send_signal(signal.SIGINT)
    ended(run, out, 130)
    nothing_left(lab)


def test_a_cable_that_is_cut_for_five_seconds(lab: Lab) -> None:
    out = lab.out()
    run = lab.start(out, 150)
    wait_until(lambda: steps(out) > 30 or run.poll() is not None, "no step was made")
    board = lab.shelf.boards[1]
    board.cut()
    mending = threading.Timer(5.0, board.cut, [True])
    mending.start()
    _, said = run.communicate(timeout=3 * PATIENCE)
    mending.join()
    assert run.returncode == 0, said
    assert summary(out)["nodes_agree"]
    assert steps(out) == 3 * 150
    nothing_left(lab)


def test_a_cable_that_is_cut_for_good(lab: Lab) -> None:
    out = lab.out()
    run = training(lab, out)
    board = lab.shelf.boards[1]
    board.cut()
    try:
        said, _ = ended(run, out, there=("n0", "n2"))
        assert re.search(r"node n1 \(rank 1\) on \S+ is unreachable since \d+ s", first(said)), said
        nothing_left(lab)  # the board behind the cable ends by its lease
    finally:
        board.cut(connected=True)
    usable(lab)
