from __future__ import annotations

from pathlib import Path

from node_agent.daemon.output import Output


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
