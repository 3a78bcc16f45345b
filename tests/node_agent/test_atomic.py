from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from node_agent import atomic


def test_a_file_is_in_its_place_and_in_its_folder_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced before the file is put in its place, the folder after."""
    synced = []

    def sync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if folder else "file", (tmp_path / "a").exists()))

    monkeypatch.setattr("os.fsync", sync)
    atomic.replace(tmp_path / "a", b"x" * 100_000)
    assert synced == [("file", False), ("folder", True)]
    assert (tmp_path / "a").read_bytes() == b"x" * 100_000


def test_a_full_disk_leaves_what_was_there_and_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.replace(tmp_path / "a", b"before")

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.replace(tmp_path / "a", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]


def test_a_file_that_is_there_is_never_created_again(tmp_path: Path) -> None:
    atomic.create(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        atomic.create(tmp_path / "key", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("key", b"first")]


def test_what_was_left_half_written_is_swept_once_nobody_writes_it(tmp_path: Path) -> None:
    old, new, other = tmp_path / ".key.0a.partial", tmp_path / ".key.0b.partial", tmp_path / "key.partial"
    for path in (old, new, other):
        path.write_bytes(b"x")
    os.utime(old, (0, time.time() - atomic.ABANDONED - 10))
    atomic.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [new, other]
    atomic.sweep(tmp_path, 0)
    assert list(tmp_path.iterdir()) == [other]
