from __future__ import annotations

import errno
from pathlib import Path

import pytest

from node_agent.daemon import disk, store
from node_agent.daemon.refusal import Refusal
from node_agent.daemon.store import DataFolderError, Record, Store

MIB = 2**20


def record(name: str, claimed_s: float = 0.0) -> Record:
    return Record(id=name, run="r", owner="me", lease_s=1.0, state="finished", claimed_s=claimed_s)


def test_one_daemon_a_folder(tmp_path: Path) -> None:
    first = Store(tmp_path / "data", MIB, 1)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    with pytest.raises(DataFolderError, match="another agent uses this folder"):
        Store(tmp_path / "data", MIB, 1)
    first.close()
    Store(tmp_path / "data", MIB, 1).close()


def test_a_folder_that_others_may_read_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(DataFolderError, match="found mode 0755, allowed 0700"):
        Store(tmp_path, MIB, 1)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="file/data: Not a directory"):
        Store(tmp_path / "file" / "data", MIB, 1)


def test_records_come_back_the_latest_first(tmp_path: Path) -> None:
    with_jobs = Store(tmp_path, MIB, 5)
    for name, claimed_s in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        with_jobs.make(record(name, claimed_s))
    (tmp_path / "jobs" / "odd").mkdir()
    (tmp_path / "jobs" / "c" / "record.json").write_text("{")
    found, complaints = with_jobs.records()
    assert [one.id for one in found] == ["b", "a"]
    assert len(complaints) == 2
    with_jobs.close()


def test_what_a_daemon_that_was_killed_left_half_written_is_swept(tmp_path: Path) -> None:
    killed = Store(tmp_path, MIB, 5)
    killed.make(record("a"))
    killed.close()
    for folder in (tmp_path, tmp_path / "jobs" / "a"):
        (folder / ".record.json.0123.partial").write_text("{")
    Store(tmp_path, MIB, 5).close()
    assert not list(tmp_path.rglob("*.partial"))


def test_room_is_made_at_the_expense_of_the_oldest(tmp_path: Path) -> None:
    keeping = Store(tmp_path, 10 * MIB, 3)
    for name in "abcde":
        (keeping.make(record(name)).work / "file").write_bytes(bytes(2 * MIB))
    assert keeping.in_the_way(0, list("abcde")) == ["e", "d"]
    for name in "ed":
        keeping.remove(name)
    assert keeping.in_the_way(5 * MIB, list("abc")) == ["c"]
    with pytest.raises(Refusal, match="found 11534336 bytes, allowed 10485760") as refused:
        keeping.in_the_way(11 * MIB, list("ab"))
    assert refused.value.code == 413
    assert sorted(folder.name for folder in (tmp_path / "jobs").iterdir()) == ["a", "b", "c"]
    keeping.close()


def test_a_disk_that_is_too_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Store(tmp_path, 10 * MIB, 3)
    monkeypatch.setattr(disk, "free", lambda folder: store.RESERVE + 99)
    assert keeping.in_the_way(99, []) == []
    with pytest.raises(Refusal, match="disk full") as refused:
        keeping.in_the_way(100, [])
    assert refused.value.code == 507
    keeping.close()


def test_how_a_job_ended_is_written_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Store(tmp_path, 10 * MIB, 3)
    one = record("a")
    keeping.make(one)
    write = disk.os.write

    def full(descriptor: int, content: bytes) -> int:
        if (tmp_path / "spare").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(disk.os, "write", full)
    one.error = "disk full"
    keeping.save(one)
    monkeypatch.undo()
    assert keeping.records()[0][0].error == "disk full"
    keeping.make(record("b"))
    assert (tmp_path / "spare").stat().st_size == store.SPARE
    keeping.close()
