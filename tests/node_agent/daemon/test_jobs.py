"""The life of jobs, through HTTP, with small programs for workers."""

from __future__ import annotations

import errno
import json
import platform
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import Board, a_job, in_thread, settings

from node_agent.daemon import disk, held, journal, running, slot
from node_agent.device import facts

STEPS = "for step in range(1, 4): tell(event='step', step=step)\n"
FINISHED = "tell(event='finished')\n"
FOREVER = "import time\ntell(event='started')\ntime.sleep(60)\n"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    configured = settings(tmp_path_factory.mktemp("board") / "data", memory_mib=60, disk_mib=24, kept_jobs=2)
    with in_thread(configured) as found:
        yield found


def idle(board: Board) -> None:
    """Nothing of an earlier test is in the way."""
    for job in board.get("/v1/jobs"):
        board.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert board.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert board.get("/v1/health")["state"] == "idle"


def until_told(board: Board, job: str, events: int = 1) -> None:
    deadline = time.monotonic() + 20
    while board.get(f"/v1/jobs/{job}")["events"] < events:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_from_claim_to_result(board: Board) -> None:
    idle(board)
    program = (STEPS + FINISHED + "print('words', flush=True)\nopen('result', 'w').write('x: 1')").encode()
    job = board.claim({"program": program, "empty": b""})
    claimed = board.get("/v1/health")["job"]
    assert (claimed["state"], claimed["owner"], claimed["run"]) == ("staging", "insecure", "test")
    assert 0 < claimed["lease_left_s"] <= 20
    assert claimed["meeting"]["host"] == "127.0.0.1"
    assert board.start(job, {"kind": "run", "job": a_job("program")}).status_code == 409
    assert board.send(job, "empty", b"").json()["received"] == 0
    assert board.send(job, "program", program[:9]).json()["received"] == 9
    assert board.send(job, "program", program[9:], offset=9).json()["received"] == len(program)
    assert board.get(f"/v1/jobs/{job}")["state"] == "ready"
    started = board.start(job, {"kind": "run", "job": a_job("program")})
    assert (started.status_code, started.json()["state"]) == (202, "running")
    told = board.told(job)
    assert [line["seq"] for line in told] == [1, 2, 3, 4, 5]
    assert told[0]["event"] == {"event": "step", "step": 1}
    assert told[-1]["end"] == {"state": "finished", "error": None, "exit": 0}
    assert board.told(job, after=3) == told[3:]
    assert board.told(job, after=4) == board.told(job, after=99) == told[4:]
    assert board.log(job) == "words\n"
    assert board.log(job, offset=3) == "ds\n"
    assert board.http.get(f"/v1/jobs/{job}/result").content == b"x: 1"
    ended = board.get(f"/v1/jobs/{job}")
    assert (ended["state"], ended["lease_left_s"], ended["events"], ended["meeting"]) == ("finished", None, 4, None)
    assert board.http.delete(f"/v1/jobs/{job}").status_code == 204
    assert board.http.get(f"/v1/jobs/{job}").status_code == 404


@pytest.mark.parametrize(
    ("program", "error", "exit"),
    [
        (STEPS + "os.kill(os.getpid(), 9)", "was killed by SIGKILL after step 3", -9),
        ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV before its first step", -11),
        (STEPS + "print('why')\nsys.exit(7)", "ended early with exit code 7 after step 3: why", 7),
        (STEPS, "ended early with exit code 0 after step 3", 0),
        ("tell(event='fault', error='link n0->n1 is lost')\nsys.exit(1)", "link n0->n1 is lost", 1),
        ("os.write(EVENTS, b'words\\n')\n" + FOREVER, "the job told what is no event: words", -9),
        ("os.write(EVENTS, b'{\"step\": 1}\\n')\n" + FOREVER, 'the job told what is no event: {"step": 1}', -9),
        ("os.write(EVENTS, b'{\"event\": 1,\\r}\\n')\n" + FOREVER, 'the job told what is no event: {"event": 1, }', -9),
        ("os.write(EVENTS, b'[' * 100000 + b'\\n')\n" + FOREVER, f"the job told what is no event: {'[' * 60}", -9),
        ("os.write(EVENTS, b'{\"event\": NaN}\\n')\n" + FOREVER, 'the job told what is no event: {"event": NaN}', -9),
        (STEPS + "tell(event='finished')\nos.write(EVENTS, b'{\"eve')\n", None, 0),
    ],
)
def test_how_jobs_end(board: Board, program: str, error: str | None, exit: int) -> None:
    idle(board)
    end = board.end(board.run(program))
    assert end == {"state": "failed" if error else "finished", "error": error, "exit": exit}


def test_memory_is_watched_over_all_processes(board: Board) -> None:
    idle(board)
    child = "import time; kept = bytearray(40 * 2**20); time.sleep(60)"
    start = f"subprocess.Popen([sys.executable, '-Sc', {child!r}])"
    job = board.run(f"import subprocess\nfor _ in range(2): {start}\n{FOREVER}")
    end = board.end(job)
    assert end["error"].startswith("memory: used ")
    assert end["error"].endswith(" MiB, allowed 60 MiB")


@pytest.mark.parametrize(
    "program",
    [
        "for index in range(99): open(f'{index}', 'wb').write(bytes(2**20))\n",
        "open('large', 'wb').write(bytes(50 * 2**20))\n",
        "while True: tell(event='waiting', padding='x' * 2**16)\n",
    ],
    ids=["many files", "a large file", "events"],
)
def test_the_disk_is_watched(board: Board, program: str, tmp_path: Path) -> None:
    idle(board)
    end = board.end(board.run(program + FOREVER))
    assert end["state"] == "failed"
    assert "allowed 24 MiB" in end["error"] or "File too large" in end["error"]


def test_an_event_has_a_largest_size(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(board)
    monkeypatch.setattr(running, "LONGEST_LINE", 2**20)
    end = board.end(board.run(f"tell(event='step', step=1)\nos.write(EVENTS, bytes(2**21))\n{FOREVER}"))
    assert end["error"] == "the job told an event of more than 1 MiB"
    assert end["exit"] == -9


def test_a_full_disk_loses_no_event(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(board)
    write = journal.write_whole

    def full(descriptor: int, line: bytes) -> None:
        if b"step" in line and json.loads(line)["step"] > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor, line)

    monkeypatch.setattr(journal, "write_whole", full)
    lines = r"b''.join(b'{\"event\": \"step\", \"step\": %d}\n' % step for step in range(1, 100))"
    job = board.run(f"import time\nos.write(EVENTS, {lines})\ntime.sleep(60)")
    told = board.told(job)
    assert [line["event"]["step"] for line in told[:-1]] == list(range(1, 100))
    assert told[-1]["end"]["error"] == "disk full"


def test_events_for_which_there_is_no_room_at_all_are_told_of(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(board)

    def full(descriptor: int, line: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(held, "Journal", partial(journal.Journal, kept=3 * len('{"event": "x"}\n')))
    monkeypatch.setattr(journal, "write_whole", full)
    job = board.run('import time\nos.write(EVENTS, b\'{"event": "x"}\\n\' * 5)\ntime.sleep(60)')
    assert board.end(job)["error"] == "disk full; 2 events at the end are lost: no room for them"


def test_a_log_has_an_end(board: Board) -> None:
    idle(board)
    job = board.run("for _ in range(9 * 2**10): print('x' * 1023)\n" + FINISHED)
    assert board.end(job)["state"] == "finished"
    assert board.log(job, offset=8 * 2**20).endswith("(cut here: a job's log holds 8388608 bytes)\n")
    assert len(board.log(job)) == 2**20


def test_a_pause(board: Board) -> None:
    idle(board)
    job = board.run(
        "import time\ntell(event='paused', seconds=0.6)\ntime.sleep(.1)\ntell(event='step', step=1)\n" + FINISHED
    )
    began = time.monotonic()
    assert board.end(job)["state"] == "finished"
    assert time.monotonic() - began > 0.5


def test_cancelled(board: Board) -> None:
    idle(board)
    job = board.run(FOREVER)
    until_told(board, job)
    assert board.http.delete(f"/v1/jobs/{job}").status_code == 409
    cancelled = board.http.post(f"/v1/jobs/{job}/cancel").json()
    assert (cancelled["state"], cancelled["error"], cancelled["exit"]) == ("failed", "cancelled by insecure", -9)
    assert board.end(job)["error"] == "cancelled by insecure"
    assert board.http.post(f"/v1/jobs/{job}/cancel").json() == cancelled


def test_reading_is_no_sign_of_life(board: Board) -> None:
    """Whoever has the owner's name may look at a job for ever."""
    idle(board)
    job = board.claim({})
    left = board.get(f"/v1/jobs/{job}")["lease_left_s"]
    with board.http.stream("GET", f"/v1/jobs/{job}/events"):
        board.log(job)
    assert board.get(f"/v1/jobs/{job}")["lease_left_s"] < left


def test_one_job_at_a_time(board: Board) -> None:
    idle(board)
    job = board.claim({"file": b"x"})
    refused = board.http.post("/v1/jobs", json={"run": "other", "lease_s": 5})
    assert refused.status_code == 409
    assert refused.json()["status"]["id"] == job
    assert refused.json()["error"] == "board: found staging for insecure's run test, allowed idle"


def test_a_claim_that_is_refused_removes_nothing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    idle(board)
    kept = board.claim({})
    board.http.post(f"/v1/jobs/{kept}/cancel")
    monkeypatch.setattr(disk, "free", lambda folder: 0)
    assert board.http.post("/v1/jobs", json={"run": "other", "lease_s": 5}).status_code == 507
    assert [one["id"] for one in board.get("/v1/jobs")] == [kept]


def test_ended_jobs_stay_readable_until_there_are_too_many(board: Board) -> None:
    idle(board)
    jobs = []
    for _ in range(5):
        jobs.append(board.claim({}))
        board.http.post(f"/v1/jobs/{jobs[-1]}/cancel")
    assert [one["id"] for one in board.get("/v1/jobs")] == jobs[:1:-1]
    assert board.end(jobs[2])["error"] == "cancelled by insecure"
    assert board.http.get(f"/v1/jobs/{jobs[1]}").status_code == 404


@pytest.mark.parametrize(
    ("files", "code", "error"),
    [
        ([("a", 2**40)], 413, "allowed 25165824 on this board"),
        ([("a", 1), ("a", 1)], 422, "found a twice"),
        ([("job.json", 1)], 422, "found job.json"),
        ([("torch.py", 1)], 422, "found torch.py"),
        ([("json.abi3.so", 1)], 422, "found json.abi3.so"),
        ([("libm.so.6", 1)], 422, "found libm.so.6"),
        ([("../a", 1)], 422, "found '../a'"),
        ([("/etc/passwd", 1)], 422, "found '/etc/passwd'"),
        ([("A", 1)], 422, "found 'A'"),
        ([(f"f{index}", 1) for index in range(17)], 422, "files"),
    ],
)
def test_files_that_are_not_taken(board: Board, files: list[tuple[str, int]], code: int, error: str) -> None:
    idle(board)
    announced = [{"name": name, "bytes": size, "sha256": "0" * 64} for name, size in files]
    refused = board.http.post("/v1/jobs", json={"run": "r", "lease_s": 5, "files": announced})
    assert (refused.status_code, error in refused.json()["error"]) == (code, True), refused.text
    assert board.get("/v1/health")["state"] == "idle"


def test_uploads_that_are_not_taken(board: Board) -> None:
    idle(board)
    job = board.claim({"file": b"0123456789"})
    assert board.send(job, "other", b"").status_code == 404
    assert board.send(job, "..%2f..%2fx", b"").status_code == 404
    wrong = board.send(job, "file", b"x", offset=5)
    assert wrong.status_code == 409
    assert wrong.json()["status"]["files"] == [{"name": "file", "bytes": 10, "received": 0}]
    assert board.send(job, "file", b"0123456789a").status_code == 413
    assert board.send(job, "file", b"01234").json()["received"] == 5
    different = board.send(job, "file", b"56788", offset=5)
    assert different.status_code == 422
    assert different.json()["error"].startswith("file: sha256: found ")
    assert board.get(f"/v1/jobs/{job}")["files"][0]["received"] == 0
    assert board.send(job, "file", b"0123456789").status_code == 200
    assert board.get(f"/v1/jobs/{job}")["state"] == "ready"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rendezvous": "file:///x"}, "job.rendezvous: found 'file:///x'"),
        ({"surprise": 1}, "surprise: found 1, Extra inputs are not permitted"),
        ({"compressor": {"name": "pickle"}}, "compressor: found "),
        ({"workload": {"name": "exec"}}, "workload"),
        ({"nodes": ["n0"] * 10**5}, "body: found more than 100000 values"),
        ({f"f{index}": 0 for index in range(200)}, "body: found an object of 210 fields"),
    ],
)
def test_jobs_that_are_not_taken(board: Board, change: dict[str, Any], error: str) -> None:
    idle(board)
    job = board.claim({})
    refused = board.start(job, {"kind": "run", "job": a_job("program", **change)})
    assert refused.status_code == 422
    assert error in refused.json()["error"]
    assert board.get("/v1/health")["state"] == "ready"


def test_metrics(board: Board) -> None:
    idle(board)
    job = board.run(FOREVER)
    until_told(board, job)
    page = board.http.get("/metrics").text
    for line in ('edgesim_state{state="running"} 1.0', "edgesim_job_memory_bytes ", "edgesim_lease_left_seconds "):
        assert f"\n{line}" in page
    board.http.post(f"/v1/jobs/{job}/cancel")
    later = board.http.get("/metrics").text
    assert 'edgesim_state{state="failed"} 1.0' in later
    assert "edgesim_job_memory_bytes" not in later


def test_what_a_board_tells_of_itself(board: Board) -> None:
    found = board.get("/v1/board")
    assert (found["name"], found["interface"], found["address"]) == ("board", "lo", "127.0.0.1")
    assert found["versions"]["torch"]
    assert found["memory_limit_bytes"] == 60 * 2**20
    assert found["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found["model"] == (facts.model() or platform.freedesktop_os_release()["PRETTY_NAME"])


NVPMODEL = """#!/bin/sh
if [ "$1" = -m ]; then echo "$2" > {mode}; echo "$2" >> {asked}; exit; fi
printf 'NV Power Mode: MODE_%s\\n%s\\n' "$(cat {mode})" "$(cat {mode})"
"""


def test_a_power_mode_lasts_as_long_as_the_job(tmp_path: Path) -> None:
    mode, asked, command = tmp_path / "mode", tmp_path / "asked", tmp_path / "nvpmodel"
    mode.write_text("0")
    command.write_text(NVPMODEL.format(mode=mode, asked=asked))
    command.chmod(0o755)
    with in_thread(settings(tmp_path / "data", power_mode=2, nvpmodel=(str(command),))) as board:
        assert board.get("/v1/board")["power_mode"] == "MODE_0 (0)"
        job = board.run(f"print(open({str(mode)!r}).read())\n" + FINISHED)
        assert board.end(job)["state"] == "finished"
        assert (board.log(job), asked.read_text()) == ("2\n\n", "2\n0\n")
        command.unlink()
        error = board.end(board.run(FINISHED))["error"]
        assert error.startswith("power_mode: ")
        assert board.get("/v1/board")["power_mode"] is None


def test_a_stop_waits_for_a_board_that_is_slow_to_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "ENDING", 0.1)
    mode, command = tmp_path / "mode", tmp_path / "nvpmodel"
    mode.write_text("0")
    command.write_text(
        NVPMODEL.format(mode=mode, asked=tmp_path / "asked").replace("\n", "\n[ $1$2 = -m0 ] && sleep 1\n", 1)
    )
    command.chmod(0o755)
    with in_thread(settings(tmp_path / "data", power_mode=2, nvpmodel=(str(command),))) as board:
        job = board.run(FOREVER)
        until_told(board, job)
    assert mode.read_text() == "0\n"
    record = json.loads((tmp_path / "data" / "jobs" / job / "record.json").read_text())
    assert (record["state"], record["error"]) == ("failed", "the agent was stopped")
