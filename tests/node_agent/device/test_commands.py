"""Commands that end in every way: shells stand for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from node_agent.device.commands import LONGEST, run_limited


def shell(script: str, limit: float = 10.0) -> tuple[str, str]:
    ended = run_limited(["/bin/sh", "-c", script], limit)
    return ended.output, ended.fault


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo well", ""),
        ("echo first; echo last >&2; exit 3", "last"),
        ("exit 3", "exit code 3"),
        ("kill -SEGV $$", "ended by SIGSEGV"),
        (f"kill -{signal.SIGRTMIN + 6} $$", f"ended by signal {signal.SIGRTMIN + 6}"),
    ],
)
def test_how_a_command_ended(script: str, fault: str) -> None:
    assert shell(script)[1] == fault


def test_the_reason_is_the_last_line_however_much_was_printed() -> None:
    output, fault = shell(f"head -c {2 * LONGEST} /dev/zero | tr '\\0' 'x'; echo; echo the reason; exit 1")
    assert fault == "the reason"
    assert len(output) == LONGEST


@pytest.mark.parametrize(("ends", "limit"), [("exit 0", 10.0), ("sleep 60", 0.3)])
def test_nothing_that_a_command_has_started_outlives_it(ends: str, limit: float, tmp_path: Path) -> None:
    told = tmp_path / "child"
    began = time.monotonic()
    shell(f"sleep 60 & echo $! > {told}; {ends}", limit)
    assert time.monotonic() - began < 8
    child = int(told.read_text())
    deadline = time.monotonic() + 10
    while _runs(child):  # until it is reaped by whoever inherits it
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_environment_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "one")
    ended = run_limited(["/bin/sh", "-c", "echo $HERE $MORE"], 10.0, {"MORE": "two"})
    assert ended.output == f"one two{os.linesep}"
