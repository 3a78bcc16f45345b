from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from node_agent.daemon.process import MARK, Limits, Process, end_earlier, environment, how_it_ended

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a shell's script as a job's process."""
    started: list[Process] = []

    def begin(script: str, **limits: object) -> Process:
        def command(events: int) -> Sequence[str]:
            return ("sh", "-c", f"EVENTS={events}; {script}")

        process = Process(command, tmp_path, environment("j", tmp_path, tmp_path / "probes"), Limits(**limits))  # type: ignore[arg-type]
        for descriptor in (process.events, process.output):
            os.set_blocking(descriptor, True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.close()


def over(process: Process) -> int:
    ended = threading.Event()
    process.when_over(ended.set)
    assert ended.wait(20)
    return process.reap()


def read(descriptor: int, until: bytes = b"\n") -> bytes:
    content = b""
    while not (until and content.endswith(until)) and (chunk := os.read(descriptor, 1000)):
        content += chunk
    return content


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_has_a_session_a_small_environment_and_limits(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    process = start("ulimit -c; env; echo over > /dev/fd/$EVENTS", cpus=(0,), file_bytes=2**20)
    assert read(process.events) == b"over\n"
    assert over(process) == 0
    lines = read(process.output, b"").decode().splitlines()
    assert lines[0] == "0"
    names = {line.split("=")[0] for line in lines[1:]}
    assert {MARK, "PATH", "HOME", "OMP_NUM_THREADS"} <= names
    assert "SECRET" not in names


def test_it_is_where_it_belongs(start: Start) -> None:
    process = start("echo ready > /dev/fd/$EVENTS; sleep 60", cpus=(1,), file_bytes=2**20)
    read(process.events)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert os.sched_getaffinity(process.pid) == {1}
    seen = psutil.Process(process.pid)
    assert seen.rlimit(psutil.RLIMIT_FSIZE) == (2**20, 2**20)
    assert process.memory() >= seen.memory_info().rss > 0


def test_all_that_it_started_ends_with_it(start: Start) -> None:
    process = start("setsid true; sleep 60 & (sleep 60 & sleep 60) & echo ready > /dev/fd/$EVENTS; exit 3")
    read(process.events)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    left = [pid for pid in process.members() if pid != process.pid]
    assert len(left) >= 3
    assert over(process) == 3
    wait_until(lambda: not list(process.members()))


def test_a_pause_stops_all_but_the_guard(start: Start) -> None:
    process = start("sleep 60 & echo ready > /dev/fd/$EVENTS; sleep 60")
    read(process.events)

    def names() -> list[str]:
        return sorted(psutil.Process(pid).name() for pid in process.members())

    def states() -> list[str]:
        return sorted(psutil.Process(pid).status() for pid in process.members())

    # A shell waits in the kernel, where it is not stopped, for a child that it has made to become what it is to be.
    wait_until(lambda: names() == ["sh", "sh", "sleep", "sleep"])
    process.pause()
    wait_until(lambda: states().count(psutil.STATUS_STOPPED) == 3)
    process.go_on()
    wait_until(lambda: psutil.STATUS_STOPPED not in states())
    process.pause()
    process.kill()
    assert over(process) == -signal.SIGKILL


@pytest.mark.parametrize("paused", [False, True])
def test_it_ends_with_a_daemon_that_is_killed(tmp_path: Path, paused: bool) -> None:
    """Also where it is stopped, and with all that it started."""
    script = f"""
import os, sys, pathlib
from node_agent.daemon.process import *
folder = pathlib.Path({str(tmp_path)!r})
command = lambda events: ("sh", "-c", f"sleep 98 & sleep 99 & echo ready > /dev/fd/{{events}}; sleep 97")
process = Process(command, folder, environment("killed", folder, folder / "probes"), Limits())
os.set_blocking(process.events, True)
os.read(process.events, 10)
if {paused}:
    process.pause()
print(*process.members(), flush=True)
sys.stdin.read()
"""
    daemon = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with daemon:
        assert daemon.stdout is not None
        members = [int(pid) for pid in daemon.stdout.readline().split()]
        assert len(members) >= 4
        daemon.kill()
        wait_until(lambda: not any(_runs(pid) for pid in members))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_an_earlier_daemon_left_is_found_by_its_mark() -> None:
    left = subprocess.Popen(["setsid", "sleep", "60"], env={"PATH": os.environ["PATH"], MARK: "abc"})
    other = subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"], MARK: "abcd"})
    try:
        wait_until(lambda: psutil.Process(left.pid).name() == "sleep")
        assert end_earlier("abc") == [left.pid]
        assert left.wait(20) == -signal.SIGKILL
        assert other.poll() is None
        assert end_earlier("abc") == []
    finally:
        other.kill()
        other.wait()


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    process = Process(lambda events: ("/no/such",), tmp_path, environment("j", tmp_path, tmp_path / "probes"), Limits())
    os.set_blocking(process.output, True)
    assert over(process) == 1
    assert read(process.output) == b"/no/such: No such file or directory\n"
    process.close()


def test_how_a_process_ended() -> None:
    assert how_it_ended(-9, 12) == "was killed by SIGKILL after step 12"
    assert how_it_ended(-11, 0) == "was killed by SIGSEGV before its first step"
    assert how_it_ended(3, None) == "ended early with exit code 3"
    assert how_it_ended(-99, None) == "was killed by signal 99"


def test_neither_modules_nor_libraries_come_from_the_job_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f":relative:{tmp_path / 'modules'}:")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib;relative::/opt/lib:")
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    found = environment("j", tmp_path, tmp_path / "probes")
    assert found["LD_LIBRARY_PATH"] == "/usr/lib:/opt/lib"
    assert found["PATH"] == os.environ["PATH"].removeprefix(".::")
    assert (found["PYTHONPATH"], found["PYTHONSAFEPATH"]) == (str(tmp_path / "modules"), "1")
