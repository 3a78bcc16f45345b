"""`node-agent serve` as a process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import agents
import httpx
import psutil
import pytest
from agents import Board, a_job, configuration, in_process, in_thread, settings, started, url_in

from node_agent import wire
from node_agent.daemon.serve import serve
from node_agent.events import Sensors, Telemetry
from node_agent.job import SceneSettings
from node_agent.workloads.scenes import open_scene
from node_agent.workloads.shard import write_shard

LARGEST_RSS = 80 * 2**20


FOREVER = "import time\nfor step in range(1, 10**6): tell(event='step', step=step); time.sleep(0.01)\n"


def until_told(board: Board, job: str, events: int = 3) -> None:
    deadline = time.monotonic() + 60
    while board.get(f"/v1/jobs/{job}")["events"] < events:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def session_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the job that runs."""
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 10
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_real_job(tmp_path: Path, scene: Path) -> None:
    """One node trains."""
    strip = tmp_path / "shard.npy"
    write_shard(open_scene(SceneSettings(path=str(scene))), (0, 24), strip)
    with in_process(tmp_path, "--insecure", real=True) as (process, ready):
        board = Board(url_in(ready))
        job = board.claim({"shard.npy": strip.read_bytes()}, lease_s=120)
        board.send(job, "shard.npy", strip.read_bytes())
        place = board.get(f"/v1/jobs/{job}")["meeting"]
        task = a_job("shard.npy", rendezvous=f"tcp://{place['host']}:{place['port']}")
        assert board.start(job, {"kind": "run", "job": task}).status_code == 202
        told = [wire.decode(json.dumps(line["event"])) for line in board.told(job) if "event" in line]
        kinds = [type(event).__name__ for event in told if not isinstance(event, Telemetry | Sensors)]
        assert kinds == ["Started", "Observation", "Step", "Step", "Step", "Observation", "Finished"]
        assert board.end(job) == {"state": "finished", "error": None, "exit": 0}
        # The daemon has neither imported nor kept what its worker needs.
        assert psutil.Process(process.pid).memory_info().rss < LARGEST_RSS


def test_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with in_process(tmp_path, "--insecure") as (process, ready):
        board = Board(url_in(ready))
        job = board.run(FOREVER)
        until_told(board, job)
        session = session_of(process)
        process.kill()
        assert all_gone(session)
        process.wait(10)
    with in_thread(settings(tmp_path / "data")) as board:
        told = board.told(job)
        reason = "the agent was restarted while the job ran"
        assert told[-1]["end"] == {"state": "failed", "error": reason, "exit": None}
        assert [line["event"]["step"] for line in told[:3]] == [1, 2, 3]
        assert [line["seq"] for line in told] == list(range(1, len(told) + 1))
        assert board.get(f"/v1/jobs/{job}")["events"] == len(told) - 1
        assert (tmp_path / "data" / "jobs" / job / "work" / "program").exists()
        assert board.get("/v1/health")["state"] == "failed"
        board.claim({})


def test_a_daemon_that_is_stopped(tmp_path: Path) -> None:
    with in_process(tmp_path, "--insecure") as (process, ready):
        board = Board(url_in(ready))
        job = board.run(FOREVER)
        until_told(board, job)
        session = session_of(process)
        began = time.monotonic()
        with board.http.stream("GET", f"/v1/jobs/{job}/events", params={"after": 10**6}) as stream:
            process.send_signal(signal.SIGTERM)
            assert '"error": "the agent was stopped"' in [line for line in stream.iter_lines() if line][-1]
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
        assert all_gone(session)


NVPMODEL = """#!/bin/sh
cd "{0}"
case "$1" in
-q) printf 'NV Power Mode: MODE\\n'; cat mode ;;
-m) echo "$2" > mode ;;
esac
"""


def test_a_board_is_in_the_power_mode_from_before_again_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("0\n")
    (tmp_path / "nvpmodel").write_text(NVPMODEL.format(tmp_path))
    (tmp_path / "nvpmodel").chmod(0o755)
    lines = f"power_mode: 2\nnvpmodel: [{tmp_path / 'nvpmodel'}]\n"
    with in_process(tmp_path, "--insecure", lines=lines) as (process, ready):
        board = Board(url_in(ready))
        job = board.run(FOREVER)
        until_told(board, job)
        assert (tmp_path / "mode").read_text() == "2\n"
        process.kill()
        process.wait(10)
    (tmp_path / "data" / "probes").write_text("{}")
    with in_process(tmp_path, "--insecure", lines=lines) as (process, ready):
        assert url_in(ready)
        assert (tmp_path / "mode").read_text() == "0\n"
        assert not (tmp_path / "data" / "probes").exists()  # the next job probes anew
        process.terminate()
        assert process.stderr is not None
        assert "node-agent: the board is in power mode MODE (0) again" in process.stderr.read()


def test_files_arrive_across_a_restart(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20)
    with in_thread(settings(tmp_path / "data")) as board:
        job = board.claim({"file": content})
        board.send(job, "file", content[: 2**20])
        meeting = board.get(f"/v1/jobs/{job}")["meeting"]
    with in_thread(settings(tmp_path / "data")) as board:
        found = board.get(f"/v1/jobs/{job}")
        assert (found["state"], found["files"][0]["received"]) == ("staging", 2**20)
        assert found["meeting"] == meeting
        board.send(job, "file", content[2**20 :], offset=2**20)
        assert board.get(f"/v1/jobs/{job}")["state"] == "ready"
    whole = tmp_path / "data" / "jobs" / job / "work" / "file"
    assert hashlib.sha256(whole.read_bytes()).digest() == hashlib.sha256(content).digest()


@pytest.mark.alone
def test_idle_it_costs_next_to_nothing(tmp_path: Path) -> None:
    with in_process(tmp_path, "--insecure", real=True) as (process, ready):
        assert ready.startswith("node-agent: board listens on http://127.0.0.1:")
        assert ready.endswith(f", data in {tmp_path / 'data'}\n")
        httpx.get(f"{url_in(ready)}/v1/openapi.json")
        seen = psutil.Process(process.pid)
        assert seen.memory_info().rss < LARGEST_RSS
        assert seen.rlimit(psutil.RLIMIT_NOFILE)[0] <= 4096
        before, began = sum(seen.cpu_times()[:2]), time.monotonic()
        time.sleep(2)
        assert sum(seen.cpu_times()[:2]) - before <= 0.01 * (time.monotonic() - began)
        mapped = {Path(one.path).parts for one in seen.memory_maps()}
        assert not [parts for parts in mapped if "torch" in parts or "numpy" in parts]


def test_two_daemons_do_not_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with in_thread(settings(tmp_path / "data")) as board:
        assert serve(configuration(tmp_path), insecure=True) == 1
        assert capsys.readouterr().err == f"node-agent: {tmp_path / 'data'}: another agent uses this folder\n"
        port = int(board.url.rpartition(":")[2])
        assert serve(configuration(tmp_path, port), insecure=True) == 1
        assert capsys.readouterr().err == f"node-agent: 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("memory_mib: 0", "memory_mib: found 0, allowed"),
        ("listn: x", "found an unknown setting 'listn', allowed"),
        ("listen: 0.0.0.0:0", "listen: found 0.0.0.0:0 with --insecure, allowed a loopback address"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, lines: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(configuration(tmp_path, lines=lines), insecure=True) == 2
    told = capsys.readouterr().err
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
            process.send_signal(signal.SIGINT)
            while "STOPPING=1" not in manager.recv(200).decode():
                pass
            assert process.wait(10) == 0


def _can_mount() -> bool:
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="a small disk needs a mount namespace, which is not allowed here")
def test_a_full_disk_ends_the_job_and_not_the_daemon(tmp_path: Path) -> None:
    """What was told remains readable, and what was told while the disk was full, too."""
    (tmp_path / "data").mkdir()
    config = configuration(tmp_path)
    mount = f"mount -t tmpfs -o size=20m,mode=700 none {tmp_path / 'data'}"
    serve = f"exec {sys.executable} {agents.__file__} serve --config {config} --insecure"
    with started(["unshare", "--mount", "--map-root-user", "sh", "-c", f"{mount} && {serve}"]) as (process, ready):
        board = Board(url_in(ready))
        job = board.run(FOREVER.replace("step=step", "step=step, padding='x' * 4000"))
        until_told(board, job)
        inside = Path(f"/proc/{process.pid}/root{tmp_path}/data")
        with contextlib.suppress(OSError), (inside / "filling").open("wb", buffering=0) as file:
            while file.write(bytes(2**12)):
                pass
        told = board.told(job)
        assert told[-1]["end"]["error"] == "disk full"
        assert [line["event"]["step"] for line in told[:-1]] == list(range(1, len(told)))
        lines = (inside / "jobs" / job / "events").read_bytes().splitlines()
        assert 3 <= len(lines) < len(told)
        assert json.loads((inside / "jobs" / job / "record.json").read_text())["error"] == "disk full"
        (inside / "filling").unlink()
        board.claim({})
