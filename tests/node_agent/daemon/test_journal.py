from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.daemon import disk
from node_agent.daemon.journal import Journal, Output

LINES = st.lists(st.binary(max_size=40).map(lambda content: content.replace(b"\n", b"") + b"\n"), max_size=20)


@given(LINES, st.integers(0, 25), st.integers(1, 200), st.booleans(), st.binary(max_size=9))
@settings(max_examples=60)
def test_it_goes_on_from_any_line(lines: list[bytes], after: int, most: int, reopened: bool, torn: bytes) -> None:
    """Also when it has been opened again, after a daemon that was killed while it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        journal = Journal(path)
        for line in lines:
            journal.append(line)
        if reopened:
            journal.close()
            with path.open("ab") as file:
                file.write(torn.replace(b"\n", b""))
            journal = Journal(path)
            assert path.stat().st_size == sum(map(len, lines))
        assert journal.last == len(lines)
        found: list[bytes] = []
        while more := journal.read(after + len(found), most):
            assert len(more) == 1 or sum(map(len, more)) <= most
            found += more
        assert found == lines[after:]
        journal.close()


def test_a_full_disk_loses_nothing_that_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "events", kept=8)
    journal.append(b"one\n")
    with monkeypatch.context() as patch:
        _fill_disk(patch)
        with pytest.raises(OSError, match="No space"):
            journal.append(b"two\n")
        journal.append(b"abc\n")
        journal.append(b"too much\n")
        journal.append(b"5\n")
        assert (journal.last, journal.lost) == (3, 2)
        assert journal.read(0) == [b"one\n"]
        assert [journal.read(after) for after in (1, 2, 3)] == [[b"two\n"], [b"abc\n"], []]
        assert not journal.retry()
    assert journal.retry()
    assert journal.read(0) == [b"one\n", b"two\n", b"abc\n"]
    journal.close()
    assert (tmp_path / "events").read_bytes() == b"one\ntwo\nabc\n"


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "events")
    journal.append(b"one\n")
    with monkeypatch.context() as patch:
        _fill_disk(patch, room=2)
        with pytest.raises(OSError, match="No space"):
            journal.append(b"two\n")
    assert (tmp_path / "events").read_bytes() == b"one\n"
    journal.close()


def test_a_log_is_cut_where_it_is_full(tmp_path: Path) -> None:
    output = Output(tmp_path / "log", limit=10)
    output.append(b"12345\n")
    output.append(b"67890123\n")
    output.append(b"never\n")
    note = b"\n(cut here: a job's log holds 10 bytes)\n"
    assert output.read(0) == b"12345\n6789" + note
    assert output.read(6, 4) == b"6789"
    assert output.read(10**9) == b""
    output.close()
    again = Output(tmp_path / "log", limit=10)
    again.append(b"never\n")
    assert again.bytes == len(b"12345\n6789" + note)
    again.close()


def test_the_last_line_says_why(tmp_path: Path) -> None:
    output = Output(tmp_path / "log")
    assert output.last_line() == ""
    output.append(b"Traceback\nValueError: no\n\n  \n")
    assert output.last_line() == "ValueError: no"
    output.close()


def _fill_disk(patch: pytest.MonkeyPatch, room: int = 0) -> None:
    write, left = disk.os.write, room

    def full(descriptor: int, content: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, bytes(content)[:left])
        left -= written
        return written

    patch.setattr(disk.os, "write", full)
