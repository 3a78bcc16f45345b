from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from jetsons import ORIN_NANO, THOR, lay
from waiting import eventually

from node_agent.telemetry.sources import describe, open_sources
from node_agent.telemetry.tegrastats_program import Tegrastats, find

LINE = "CPU [5%@1000,off] GR3D_FREQ 40%@[300,0] cpu@41C VDD_IN 7000mW/1mW"


def program(root: Path, script: str) -> Path:
    path = root / "usr/bin/tegrastats"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_its_latest_line_counts_and_it_ends_with_its_reader(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    script = f'echo $$ "$@" > {asked}; echo not a line; echo "RAM 1/2MB"; echo "{LINE}"; exec sleep 1000'
    source = Tegrastats(program(tmp_path, script), interval=30.0)
    eventually(lambda: source.sample and source.sample.rails)
    assert source.read()["total_w"] == 7.0
    assert source.read()["gpu_percent"] == 40
    pid, *arguments = asked.read_text().split()
    assert arguments == ["--interval", "30000"]
    source.close()
    assert not psutil.pid_exists(int(pid))


def test_a_line_that_is_old_says_nothing_of_now(tmp_path: Path) -> None:
    now = [0.0]
    source = Tegrastats(program(tmp_path, f'echo "{LINE}"; exec sleep 1000'), 1.0, now=lambda: now[0])
    eventually(source.read)
    now[0] = 2.9
    assert source.read()["total_w"] == 7.0
    now[0] = 3.1
    assert source.read() == {}
    source.close()


def test_its_death_is_an_error(tmp_path: Path) -> None:
    source = Tegrastats(program(tmp_path, f'echo "{LINE}"; exit 3'), 1.0)
    eventually(lambda: source._process.poll() is not None)
    with pytest.raises(OSError, match="ended by itself with exit code 3"):
        source.read()
    source.close()


def test_one_that_does_not_end_when_told_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.telemetry.tegrastats_program.ENDING", 0.2)
    source = Tegrastats(program(tmp_path, f"trap '' TERM; echo '{LINE}'; while :; do sleep 0.05; done"), 1.0)
    eventually(source.read)
    pid = source._process.pid
    source.close()
    assert not psutil.pid_exists(pid)


def test_it_is_run_only_on_boards_whose_files_leave_something_open(tmp_path: Path) -> None:
    """On Thor no file has the GPU's load. What the files have counts all the same."""
    thor, orin, other = (tmp_path / name for name in ("thor", "orin", "other"))
    for root in (lay(thor, THOR), lay(orin, ORIN_NANO), other):
        program(root, f'echo "{LINE}"; exec sleep 1000')
    names = {}
    for root in (thor, orin, other):
        opened = open_sources("lo", tmp_path, 1.0, root)
        assert opened.failed == []
        names[root.name] = {source.name for source in opened.sources}
        for source in opened.sources:
            source.close()
    assert [name for name, found in names.items() if "tegrastats" in found] == ["thor"]
    used = {one.subject: one.detail for one in describe(thor)}
    assert used["tegrastats"] == f"{thor}/usr/bin/tegrastats, used"
    assert used["power"].startswith("total is VIN by ina238 hwmon")


def test_a_program_that_cannot_be_run_is_told_of_and_left_out(tmp_path: Path) -> None:
    path = program(lay(tmp_path, THOR), "")
    path.write_bytes(b"\x7fELF is no program")
    opened = open_sources("lo", tmp_path, 1.0, tmp_path)
    ((name, why),) = opened.failed
    assert name == "tegrastats"
    assert "tegrastats" not in {source.name for source in opened.sources}
    told = {one.subject: (one.found, one.detail) for one in opened.measurable}
    assert told["tegrastats"] == (False, f"{path}: {why}")
    assert told["GPU"] == (True, "clock")  # and no load by what does not run
    os.chmod(path, 0o644)
    assert find(tmp_path) is None
