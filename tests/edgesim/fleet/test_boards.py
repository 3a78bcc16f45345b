"""Whole runs over daemons of this machine, as over boards: real workers, each of which imports torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from agents import in_process, url_in
from running import PATIENCE, command, edgesim, summary

from edgesim.results import load

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[psutil.Process], Path]]:
    """Two boards, and the inventory that names them."""
    folder = tmp_path_factory.mktemp("shelf")
    with ExitStack() as stack:
        started = [stack.enter_context(in_process(folder / f"b{i}", "--insecure", real=True)) for i in range(2)]
        places = [url_in(line).removeprefix("http://") for _, line in started]
        lines = [f"  - {{name: b{i}, address: '{place}'}}\n" for i, place in enumerate(places)]
        inventory = folder / "boards.yaml"
        inventory.write_text("boards:\n" + "".join(lines))
        yield [psutil.Process(process.pid) for process, _ in started], inventory


def states(inventory: Path) -> list[str]:
    done = edgesim("fleet", "status", "--inventory", inventory, "--insecure", "--json")
    return [board["state"] for board in json.loads(done.stdout)]


def test_boards_train_the_same_parameters_as_emulated_nodes(
    shelf: tuple[list[psutil.Process], Path], write_topology: Write, tmp_path: Path
) -> None:
    file = write_topology(2, "  compressor: gcc\n")
    boards = edgesim("run", file, "--inventory", shelf[1], "--insecure", "--out", tmp_path / "boards", "--no-figures")
    assert boards.returncode == 0, boards.stderr
    local = edgesim("run", file, "--out", tmp_path / "local", "--no-figures")
    assert local.returncode == 0, local.stderr
    found, expected = summary(tmp_path / "boards"), summary(tmp_path / "local")
    assert found["params_sha256"] == expected["params_sha256"]
    assert found["bytes_sent"] == expected["bytes_sent"]
    assert found["metrics"]["auc"] == expected["metrics"]["auc"]
    assert (found["fleet"], expected["fleet"]) == ("boards", "local")
    assert states(shelf[1]) == ["idle", "idle"]


def started(file: Path, inventory: Path, out: Path) -> subprocess.Popen[str]:
    """A run of any number of steps, in a process of its own, that has made a few."""
    options = ("--insecure", "--lease", "3 s", "--no-figures", "--clock", "wall", "--set", "training.steps=100000")
    process = subprocess.Popen(
        command("run", file, "--inventory", inventory, "--out", out, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + PATIENCE
    steps = out / "steps.csv"
    while not steps.exists() or len(steps.read_text().splitlines()) < 5:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.1)
    return process


def test_what_is_killed_is_told_and_the_boards_are_free_again(
    shelf: tuple[list[psutil.Process], Path], write_topology: Write, tmp_path: Path
) -> None:
    agents, inventory = shelf
    file, out = write_topology(2), tmp_path / "worker"
    with started(file, inventory, out) as controller:
        worker = agents[1].children()[0]
        worker.kill()
        _, errors = controller.communicate(timeout=PATIENCE)
    assert controller.returncode == 1
    assert errors.startswith("edgesim: node n1 (rank 1) was killed by SIGKILL after step ")
    assert errors.splitlines()[-1] == f"what was measured is in {out}"
    assert summary(out)["status"] == "failed"
    assert len(load(out).steps["step"]) >= 4
    assert states(inventory) == ["idle", "idle"]

    with started(write_topology(1), inventory, tmp_path / "controller") as controller:
        workers = agents[0].children(recursive=True)
        os.kill(controller.pid, signal.SIGKILL)
    assert states(inventory) == ["running", "idle"]
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert gone
    until = time.monotonic() + 10
    while (found := states(inventory)) != ["failed", "idle"]:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    done = edgesim("fleet", "status", "--inventory", inventory, "--insecure", "--json")
    assert json.loads(done.stdout)[0]["job_error"] == "the controller was silent for 3 s"
