"""`edgesim fleet status|logs|cancel|bench`, and what `edgesim run` says of boards that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import edgesim
from scripted import Board, write_inventory

from edgesim.devices import known
from edgesim.fleet import benchmark

Write = Callable[..., Path]


@pytest.fixture
def boards() -> Iterator[list[Board]]:
    made = [Board() for _ in range(2)]
    yield made
    for board in made:
        board.close()


@pytest.fixture
def these(boards: list[Board], tmp_path: Path) -> tuple[str, str, str]:
    return ("--inventory", str(write_inventory(tmp_path / "boards.yaml", boards)), "--insecure")


def running(board: Board, lease_left: float | None = 5.0) -> None:
    board.job = {
        "id": "a" * 32,
        "run": "leo-ring-4-20260101-120000",
        "owner": "alice@workstation",
        "lease_s": 20.0,
        "state": "running" if lease_left else "failed",
        "lease_left_s": lease_left,
    }


def test_status_tells_all_of_all_and_fails_for_one_that_is_away(boards: list[Board], these: tuple[str, ...]) -> None:
    running(boards[1])
    boards[1].clock = 3.5
    done = edgesim("fleet", "status", *these)
    assert done.returncode == 0, done.stderr
    head, first, second, _ = done.stdout.splitlines()
    assert head.split() == ["board", "state", "run", "of", "owner", "versions", "load", "cert.", "clock"]
    assert first.split()[:5] == ["b0", "idle", "0.1.0,", "2.9.1", "none"]
    assert second.split()[:5] == ["b1", "running", "leo-ring-4-20260101-120000", "of", "alice@workstation"]
    assert "+3." in second
    boards[0].close()
    done = edgesim("fleet", "status", *these, "--json")
    assert done.returncode == 1
    away, there = json.loads(done.stdout)
    assert away["state"] is None
    assert away["error"] == f"no connection to {boards[0].address}: Connection refused"
    assert (there["state"], there["run"], there["owner"]) == ("running", boards[1].job["run"], "alice@workstation")  # type: ignore[index]
    assert there["offset_s"] == pytest.approx(3.5, abs=0.2)
    done = edgesim("fleet", "status", *these)
    assert f"b0: no connection to {boards[0].address}: Connection refused" in done.stdout


def test_logs_are_printed_without_what_steers_a_terminal(boards: list[Board], these: tuple[str, ...]) -> None:
    boards[0].printed = b"one\n\x1b[2Jtwo\tthree\xff\nfour"
    assert edgesim("fleet", "logs", "b0", *these).stderr == "edgesim: b0: there is no job, and none is kept\n"
    running(boards[0], None)
    for follow in ((), ("--follow",)):
        done = edgesim("fleet", "logs", "b0", *these, *follow)
        assert done.returncode == 0
        assert done.stdout == "one\n [2Jtwo three�\nfour\n"


def test_cancel_ends_what_runs(boards: list[Board], these: tuple[str, ...]) -> None:
    assert edgesim("fleet", "cancel", *these).returncode == 2
    assert edgesim("fleet", "cancel", "b0", "--all", *these).returncode == 2
    running(boards[0])
    done = edgesim("fleet", "cancel", "--all", *these)
    assert done.returncode == 0
    assert done.stdout == (
        "b0: run leo-ring-4-20260101-120000 of alice@workstation is cancelled\nb1: nothing runs there\n"
    )
    assert boards[0].job is not None
    assert boards[0].job["state"] == "failed"
    running(boards[0])
    body = {"error": "job: found bob, allowed alice@workstation, who claimed it"}
    boards[0].refuse = lambda method, path: (403, body) if path.endswith("/cancel") else None
    done = edgesim("fleet", "cancel", "b0", *these)
    assert done.returncode == 1
    assert done.stderr == "edgesim: b0: job: found bob, allowed alice@workstation, who claimed it\n"


def test_a_board_that_is_none_is_refused(these: tuple[str, ...]) -> None:
    done = edgesim("fleet", "logs", "b7", *these)
    assert done.returncode == 2
    assert done.stderr == "edgesim: board: found 'b7', which is no board, allowed b0 or b1\n"


def test_bench_fetches_a_profile(
    boards: list[Board], these: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "POLL", 0.02)
    profile = known()["jetson-nano-4gb"].read_text()
    board, out = boards[0], tmp_path / "mine.yaml"
    board.benched = (profile.encode(), None)
    done = edgesim("fleet", "bench", "b0", *these, "--out", out, "--quick")
    assert done.returncode == 0, done.stderr
    assert out.read_text() == profile
    assert done.stdout.startswith(f"{out}: ")
    assert board.job is None
    assert edgesim("fleet", "bench", "b0", *these).stdout.splitlines()[:5] == profile.splitlines()[:5]
    board.benched = (b"", "torch is not installed")
    done = edgesim("fleet", "bench", "b0", *these)
    assert (done.returncode, done.stderr) == (1, "edgesim: b0: torch is not installed\n  | hello\n")
    assert edgesim("fleet", "bench", "b0", *these, "--out", tmp_path / "a.txt").returncode == 2
    for unsound, expected in (
        (b"board: [", "not YAML: "),
        (b"\xff", "cannot read: "),
        (b"since: 2026-13-45", "not YAML"),
    ):
        board.benched = (unsound, None)
        done = edgesim("fleet", "bench", "b0", *these, "--out", out)
        assert (done.returncode, done.stderr.startswith(f"edgesim: b0's profile: {expected}")) == (1, True), done.stderr
        assert out.read_text() == profile


def test_without_a_fleet_it_is_said_how_to_make_one(write_topology: Write, tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    file = write_topology(1)
    own = file.read_text().replace("nodes: [n0]", "nodes: [{name: n0, address: 10.0.0.1}]")
    file.write_text(own)
    for arguments in (("run", file), ("fleet", "status")):
        done = edgesim(*arguments, "--fleet", nowhere)
        assert done.returncode == 1
        assert done.stderr == (
            f"edgesim: {nowhere}: no fleet there, and boards speak to nobody else; edgesim fleet init makes one, "
            "edgesim fleet enroll HOST adds a board, --fleet DIR names another folder\n"
        )
    done = edgesim("run", file, "--insecure", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr == "edgesim: n0: --insecure: found 10.0.0.1:7443, allowed addresses of loopback\n"
    assert not (tmp_path / "run").exists()
    assert edgesim("validate", file).returncode == 0


def test_a_run_refuses_what_its_options_cannot_mean(write_topology: Write, these: tuple[str, ...]) -> None:
    file = write_topology(2)
    done = edgesim("run", file, *these, "--lease", "1 s")
    assert done.returncode == 2
    assert done.stderr == "edgesim: --lease: found '1 s', allowed 3 s to 60 min\n"
    done = edgesim("run", write_topology(3), *these)
    assert done.returncode == 2
    assert done.stderr == f"{these[1]}: boards: found 2 board(s) for 3 node(s), allowed a board for every node\n"


def test_options_of_boards_are_refused_where_there_are_none(write_topology: Write, tmp_path: Path) -> None:
    allowed = "found no boards, allowed with --inventory, or with addresses of the nodes\n"
    out = ("--out", tmp_path / "run")
    for option in (("--insecure",), ("--fleet", tmp_path), ("--lease", "20 s"), ("--allow-versions",)):
        done = edgesim("run", write_topology(1), *out, *option)
        assert (done.returncode, done.stderr) == (2, f"{option[0]}: {allowed}")
    done = edgesim("run", write_topology(1), *out, "--lease", "20 s", "--insecure")
    assert (done.returncode, done.stderr) == (2, f"--insecure: {allowed}--lease: {allowed}")
    assert not (tmp_path / "run").exists()


def test_verbs_of_this_machine_refuse_boards(tmp_path: Path) -> None:
    file = tmp_path / "boards.yaml"
    file.write_text("nodes:\n  - {name: a, address: 10.0.0.1}\n  - {name: b, address: 10.0.0.2}\n")
    for does, arguments in (("measures", ("links", file)), ("runs commands", ("exec", file, "--", "true"))):
        done = edgesim(*arguments)
        assert done.returncode == 2
        assert done.stderr == (
            f"{file}:2: nodes.0.address: found 10.0.0.1:7443, allowed none: this verb {does} on this machine alone\n"
        )
