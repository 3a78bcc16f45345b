"""What killed runs leave is ended by their records, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgesim.network import records
from edgesim.network.records import Process, Record, RecordError

GONE = Process(pid=2**22 + 1, started=1)
"""no Linux gives out such a pid"""


@pytest.fixture(autouse=True)
def this_tests_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@contextmanager
def sleeper(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_recorded_processes_and_marked_ones_are_ended_and_others_are_not() -> None:
    with (
        sleeper() as recorded,
        sleeper(**{records.TOKEN: "f00d"}) as marked,
        sleeper(**{records.TOKEN: "beef"}) as other,
    ):
        record = Record("killed", GONE, "f00d")
        record.add(recorded.pid)
        assert [(one.run, one.processes, one.alive) for one in records.clean()] == [("killed", 2, False)]
        assert not psutil.pid_exists(recorded.pid)
        assert not psutil.pid_exists(marked.pid)
        assert other.poll() is None
        assert list(records.clean()) == []


def test_a_pid_that_another_process_has_by_now_is_left_alone() -> None:
    with sleeper() as innocent:
        Record("killed", GONE, "f00d", [Process(innocent.pid, Process.of(innocent.pid).started - 1)]).write()
        assert [one.processes for one in records.clean()] == [0]
        assert innocent.poll() is None


def test_what_ran_before_the_host_was_started_again_is_only_forgotten() -> None:
    with sleeper(**{records.TOKEN: "f00d"}) as innocent:
        Record("killed", Process.of(os.getpid()), "f00d", [Process.of(innocent.pid)], boot="another").write()
        assert [(one.processes, one.alive) for one in records.clean()] == [(0, False)]
        assert innocent.poll() is None


def test_a_run_that_is_going_on_is_left_alone() -> None:
    record = Record("living", Process.of(os.getpid()), "f00d")
    with sleeper() as node:
        record.add(node.pid)
        assert [(one.run, one.alive) for one in records.clean()] == [("living", True)]
        with pytest.raises(RecordError, match=f"run living is going on already, as process {os.getpid()}"):
            records.clean_run("living")
        assert node.poll() is None


def test_the_next_run_of_the_same_name_ends_what_the_last_one_left() -> None:
    with sleeper() as left, sleeper() as of_another:
        Record("mine", GONE, "f00d").add(left.pid)
        Record("another", GONE, "beef").add(of_another.pid)
        records.clean_run("mine")
        assert not psutil.pid_exists(left.pid)
        assert of_another.poll() is None
        records.clean_run("never-seen")


def test_records_that_others_could_write_are_not_trusted() -> None:
    Record("killed", GONE, "f00d").write()
    records.folder().chmod(0o777)
    with pytest.raises(RecordError, match="that others may write"):
        list(records.clean())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"run": 1, "controller": 2, "token": 3, "processes": []})]
)
def test_a_damaged_record_is_told_of(content: str) -> None:
    (records.folder() / "odd.json").write_text(content)
    with pytest.raises(RecordError, match=r"odd.json: not a record of a run"):
        list(records.clean())


def test_one_bad_record_does_not_keep_the_others() -> None:
    (records.folder() / "bad.json").write_text("[]")
    (records.folder() / "also-bad.json").write_text("")
    (records.folder() / "gone.json").symlink_to("nowhere")
    Record("killed", GONE, "f00d").write()
    cleaned = records.clean()
    assert next(cleaned).run == "killed"
    with pytest.raises(RecordError) as caught:
        list(cleaned)
    assert [line.partition(": ")[0].rpartition("/")[2] for line in str(caught.value).splitlines()] == [
        "also-bad.json",
        "bad.json",
    ]
    records.clean_run("gone")


def test_a_process_that_may_not_be_ended_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(process: psutil.Process, number: int) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "send_signal", denied)
    monkeypatch.setattr(records, "PATIENCE", 0.1)
    with sleeper() as left:
        Record("killed", GONE, "f00d").add(left.pid)
        with pytest.raises(RecordError, match=f"run killed: process {left.pid} does not end"):
            list(records.clean())
        assert [path.stem for path in records.folder().glob("*.json")] == ["killed"]
        monkeypatch.undo()


def test_what_a_run_has_not_ended_itself_ends_with_it() -> None:
    with sleeper() as node:
        with records.recorded("mine") as record:
            record.add(node.pid)
            assert node.poll() is None
        assert not psutil.pid_exists(node.pid)
    assert list(records.clean()) == []


def test_neither_we_nor_what_started_us_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    signalled: list[int] = []
    monkeypatch.setattr(psutil.Process, "send_signal", lambda process, number: signalled.append(process.pid))
    monkeypatch.setattr(records, "PATIENCE", 0.1)
    parents = psutil.Process().parents()
    own = [Process.of(pid) for pid in (os.getpid(), *(process.pid for process in parents))]
    Record("killed", GONE, "f00d", own).write()
    assert [one.processes for one in records.clean()] == [0]
    assert signalled == []


def test_a_folder_is_recorded_before_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known: list[list[str]] = []
    make = Path.mkdir

    def making(path: Path, *arguments: Any, **named: Any) -> None:
        if path.parent == tmp_path / "temporary":
            known.append(json.loads((records.folder() / "mine.json").read_text())["folders"])
        make(path, *arguments, **named)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with records.recorded("mine") as record:
        monkeypatch.setattr(Path, "mkdir", making)
        made = record.folder()
        assert known == [[str(made)]]
        assert made.stat().st_mode & 0o777 == 0o700


def test_the_controllers_own_folders_are_left_to_it_unless_it_was_killed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with records.recorded("mine") as record:
        record.leave([own])
        record.leave([own])
    assert own.exists()
    Record("killed", GONE, "f00d").leave([own])
    assert [one.run for one in records.clean()] == ["killed"]
    assert not own.exists()


def test_temporary_folders_go_with_the_record() -> None:
    with records.recorded("mine") as record:
        kept = record.folder()
        (kept / "rendezvous").write_text("here")
        assert [one.alive for one in records.clean()] == [True]
        assert kept.exists()
    assert not kept.exists()
    assert list(records.clean()) == []
    left = Record("killed", GONE, "f00d").folder()
    assert [one.run for one in records.clean()] == ["killed"]
    assert not left.exists()


def test_records_are_kept_where_the_runtime_folder_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "of-somebody-else"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert records.folder() == tmp_path / f"edgesim-{os.geteuid()}"
