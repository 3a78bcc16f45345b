"""`node-agent serve` as a process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from agents import Board, a_job, in_process, url_in

from node_agent.job import SceneSettings
from node_agent.workloads.scenes import open_scene
from node_agent.workloads.shard import write_shard

LARGEST_RSS = 80 * 2**20


@pytest.fixture(scope="module")
def shard(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("shard") / "shard.npy"
    write_shard(open_scene(SceneSettings(path=str(scene))), (0, 24), path)
    return path.read_bytes()


def start(board: Board, shard: bytes, steps: int, lease_s: float = 60.0) -> str:
    job = board.claim({"shard.npy": shard}, lease_s=lease_s)
    assert board.send(job, "shard.npy", shard).status_code == 200
    place = board.get(f"/v1/jobs/{job}")["meeting"]
    task = a_job("shard.npy", steps=steps, rendezvous=f"tcp://{place['host']}:{place['port']}")
    assert board.start(job, {"kind": "run", "job": task}).status_code == 202
    return job


def until_step(board: Board, job: str, step: int = 3) -> None:
    deadline = time.monotonic() + 60
    while board.get(f"/v1/jobs/{job}")["events"] < step + 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    (worker,) = psutil.Process(process.pid).children()
    return worker


def runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_real_jobs_and_a_daemon_that_is_killed(tmp_path: Path, shard: bytes) -> None:
    with in_process(tmp_path, "--insecure") as (process, ready):
        board = Board(url_in(ready))
        told = board.told(start(board, shard, 3))
        assert [line["event"]["event"] for line in told[:-1]][-1] == "finished"
        assert told[-1]["end"] == {"state": "finished", "error": None, "exit": 0}
        # The daemon has neither imported nor kept what its worker needs, after all of this.
        assert psutil.Process(process.pid).memory_info().rss < LARGEST_RSS

        killed = start(board, shard, 10**6)
        until_step(board, killed)
        worker = worker_of(process)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        worker_gone = time.monotonic() + 5
        while runs(worker) and time.monotonic() < worker_gone:
            time.sleep(0.02)
        assert not runs(worker)
        with in_process(tmp_path, "--insecure") as (again, ready):
            board = Board(url_in(ready))
            assert [one["state"] for one in board.get("/v1/jobs")] == ["failed", "finished"]
            told = board.told(killed)
            assert told[-1]["end"] == {
                "state": "failed",
                "error": "the agent was restarted while the job ran",
                "exit": None,
            }
            assert [line["event"]["step"] for line in told if line.get("event", {}).get("event") == "step"][:3] == [1, 2, 3]
            assert (tmp_path / "data" / "jobs" / killed / "work" / "shard.npy").exists()

            stopped = start(board, shard, 10**6)
            until_step(board, stopped)
            worker = worker_of(again)
            began = time.monotonic()
            with board.http.stream("GET", f"/v1/jobs/{stopped}/events", params={"after": 10**6}) as stream:
                again.send_signal(signal.SIGTERM)
                assert '"error": "the agent was stopped"' in [line for line in stream.iter_lines() if line][-1]
            assert again.wait(10) == 0
            assert time.monotonic() - began < 5
            assert not runs(worker)


def test_files_arrive_across_a_restart(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20)
    with in_process(tmp_path, "--insecure") as (process, ready):
        board = Board(url_in(ready))
        job = board.claim({"file": content})
        board.send(job, "file", content[: 2**20])
        meeting = board.get(f"/v1/jobs/{job}")["meeting"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    with in_process(tmp_path, "--insecure") as (_, ready):
        board = Board(url_in(ready))
        found = board.get(f"/v1/jobs/{job}")
        assert (found["state"], found["files"][0]["received"]) == ("staging", 2**20)
        assert found["meeting"] == meeting
        board.send(job, "file", content[2**20 :], offset=2**20)
        assert board.get(f"/v1/jobs/{job}")["state"] == "ready"
    whole = tmp_path / "data" / "jobs" / job / "work" / "file"
    assert hashlib.sha256(whole.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_idle_it_costs_next_to_nothing(tmp_path: Path) -> None:
    with in_process(tmp_path, "--insecure") as (process, ready):
        assert ready.startswith("node-agent: board listens on http://127.0.0.1:")
        assert ready.endswith(f", data in {tmp_path / 'data'}\n")
        httpx.get(f"{url_in(ready)}/v1/openapi.json")
        seen = psutil.Process(process.pid)
        assert seen.memory_info().rss < LARGEST_RSS
        before, began = sum(seen.cpu_times()[:2]), time.monotonic()
        time.sleep(2)
        assert sum(seen.cpu_times()[:2]) - before <= 0.01 * (time.monotonic() - began)
        mapped = {Path(one.path).parts for one in seen.memory_maps()}
        assert not [parts for parts in mapped if "torch" in parts or "numpy" in parts]


def test_the_daemon_imports_neither_torch_nor_numpy() -> None:
    program = "import sys, node_agent.cli, node_agent.daemon.serve; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_two_daemons_do_not_share(tmp_path: Path) -> None:
    with in_process(tmp_path, "--insecure") as (_, ready):
        port = int(url_in(ready).rpartition(":")[2])
        with in_process(tmp_path, "--insecure") as (second, said):
            assert (second.wait(20), said) == (1, "")
            assert second.stderr is not None
            assert second.stderr.read() == f"node-agent: {tmp_path / 'data'}: another agent uses this folder\n"
        with in_process(tmp_path / "other", "--insecure", port=port) as (third, said):
            assert (third.wait(20), said) == (1, "")
            assert third.stderr is not None
            assert third.stderr.read() == f"node-agent: 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("memory_mib: 0", "memory_mib: found 0, allowed"),
        ("listn: x", "found an unknown setting 'listn', allowed"),
        ("listen: 0.0.0.0:0", "listen: found 0.0.0.0:0 with --insecure, allowed a loopback address"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, lines: str, error: str) -> None:
    with in_process(tmp_path, "--insecure", lines=lines) as (process, said):
        assert (process.wait(20), said) == (2, "")
        assert process.stderr is not None
        told = process.stderr.read()
        assert error in told
        assert told.count("\n") == 1


def test_it_talks_to_its_service_manager(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        told = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        with in_process(tmp_path / "board", "--insecure", env={**os.environ, **told}) as (process, _):
            heard = [manager.recv(200).decode() for _ in range(4)]
            assert sum("READY=1" in word for word in heard) == 1
            assert heard.count("WATCHDOG=1") == 3
            process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in manager.recv(200).decode():
                pass
            assert process.wait(10) == 0


def _can_mount() -> bool:
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="a small disk needs a mount namespace, which is not allowed here")
def test_a_full_disk_ends_the_job_and_not_the_daemon(tmp_path: Path, shard: bytes) -> None:
    """The disk is full from the worker's start on; its events are told all the same."""
    (tmp_path / "data").mkdir()
    config = tmp_path / "agent.yaml"
    config.write_text(f"name: board\nlisten: 127.0.0.1:0\ndata: {tmp_path / 'data'}\ninterface: lo\n")
    mount = f"mount -t tmpfs -o size=20m none {tmp_path / 'data'}"
    serve = f"exec {sys.executable} -m node_agent serve --insecure --config {config}"
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", f"{mount} && {serve}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            board = Board(url_in(process.stdout.readline()))
            job = start(board, shard, 10**6)
            inside = Path(f"/proc/{process.pid}/root{tmp_path}/data")
            with contextlib.suppress(OSError), (inside / "filling").open("wb", buffering=0) as file:
                while file.write(np.random.default_rng(0).bytes(2**16)):
                    pass
            told = board.told(job)
            assert told[-1]["end"]["error"] == "disk full"
            assert told[0]["event"]["event"] == "started"
            (inside / "filling").unlink()
            assert board.get("/v1/health")["state"] == "failed"
            board.claim({})
        finally:
            process.kill()
