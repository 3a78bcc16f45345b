"""A run on boards that say what they are told to: no process, no torch."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scripted import Board, played
from waiting import eventually

from edgesim.fleet import claiming, listener, remote, upload
from edgesim.fleet.access import Access
from edgesim.fleet.address import Address
from edgesim.fleet.base import FleetError
from edgesim.fleet.inventory import Place
from edgesim.fleet.remote import RemoteFleet, run_name
from edgesim.results import load
from edgesim.run import Experiment, RunError
from edgesim.topology.reader import read
from node_agent.compression.settings import NoneSettings
from node_agent.events import Fault, Observation, Step, Telemetry
from node_agent.job import Job

Write = Callable[..., Path]

LEASE = 1.5


@pytest.fixture
def boards() -> Iterator[list[Board]]:
    made = [Board(lambda job: [*played(job)]) for _ in range(3)]
    yield made
    for board in made:
        board.close()


@pytest.fixture
def experiment(write_topology: Write) -> Experiment:
    return Experiment.prepare(read(write_topology(3), ["training.steps=4"]), "")


def fleet_of(boards: Sequence[Board], said: list[str] | None = None, **options: Any) -> RemoteFleet:
    places = [Place(f"b{i}", board.address) for i, board in enumerate(boards)]
    tell = (said if said is not None else []).append
    return RemoteFleet(Access(None, None), places, **{"lease": LEASE, "allow_versions": False, "tell": tell, **options})


def run(experiment: Experiment, boards: Sequence[Board], folder: Path, **options: Any) -> None:
    experiment.run(NoneSettings(), folder, fleet_of(boards, **options), lambda event: None)


def failure(experiment: Experiment, boards: Sequence[Board], folder: Path) -> RunError:
    with pytest.raises(RunError) as caught:
        run(experiment, boards, folder)
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    return caught.value


def test_boards_get_their_own_strips_and_one_meeting(
    experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    boards[1].clock = 100.0
    run(experiment, boards, tmp_path / "my run!")
    for rank, board in enumerate(boards):
        assert board.task is not None
        assert board.task.rendezvous == "tcp://127.0.0.1:4321"
        strip = np.load(io.BytesIO(board.files["shard.npy"]))
        np.testing.assert_array_equal(strip, experiment.scene.lines(*experiment.strips().lines[rank]))
        assert str(tmp_path) not in board.task.model_dump_json().replace(str(tmp_path / "my run!"), "")
        assert board.job is None  # forgotten
        assert "GET /jobs/ID/log?offset=0" in board.asked
        assert not any("cancel" in asked for asked in board.asked)
    found = load(tmp_path / "my run!")
    assert found.summary["status"] == "finished"
    assert found.summary["fleet"] == "boards"
    assert len(found.steps["step"]) == 12
    assert [path.read_text() for path in sorted((found.path / "logs").iterdir())] == ["hello\n"] * 3
    facts = found.config["fleet"]
    assert (facts["kind"], facts["lease_s"], list(facts["boards"])) == ("boards", LEASE, ["n0", "n1", "n2"])
    assert facts["boards"]["n1"]["board"] == "b"
    assert facts["boards"]["n1"]["offset_s"] == pytest.approx(100, abs=0.1)
    assert facts["boards"]["n0"]["offset_s"] == pytest.approx(0, abs=0.1)
    assert 0 < facts["boards"]["n0"]["round_trip_s"] < 1


def test_a_fleet_runs_more_than_once(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    fleet = fleet_of(boards)
    for name in ("one", "two"):
        for board in boards:
            board.files.clear()
        experiment.run(NoneSettings(), tmp_path / name, fleet, lambda event: None)
        assert load(tmp_path / name).summary["status"] == "finished"


def test_broken_connections_lose_nothing_and_repeat_nothing(
    experiment: Experiment, boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "AGAIN", 0.02)
    monkeypatch.setattr(upload, "PAUSE", 0.02)

    def told(job: Job) -> list[Any]:
        return [item for event in played(job) for item in (event, None)]  # it breaks after every event

    boards[0].told = told
    boards[1].told = lambda job: [*[*played(job)][:3], b'{"seq": 4, "eve', None, *[*played(job)][3:]]
    boards[2].cut_uploads_at = [1000, 1000, 5000]
    run(experiment, boards, tmp_path / "run")
    found = load(tmp_path / "run")
    assert found.summary["status"] == "finished"
    assert sorted(zip(found.steps["rank"], found.steps["step"], strict=True)) == [
        (rank, step) for rank in range(3) for step in range(1, 5)
    ]
    assert [asked for asked in boards[0].asked if "events" in asked][:3] == [
        f"GET /jobs/ID/events?after={after}" for after in range(3)
    ]
    puts = [asked.rpartition("=")[2] for asked in boards[2].asked if asked.startswith("PUT")]
    assert puts == ["0", "1000", "1000", "5000"]


def test_the_cause_is_told_and_not_its_consequences(
    experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    def lost(job: Job) -> list[Any]:
        return [*played(job, 2), Fault(job.rank, job.node, "link: connection lost", "", neighbour_lost=True)]

    for board in (boards[0], boards[2]):
        board.told, board.end = lost, {"state": "failed", "error": "link: connection lost", "exit": 1}
    boards[1].told = lambda job: [*played(job, 3), 0.3]
    boards[1].end = {"state": "failed", "error": None, "exit": -9}
    boards[1].printed = b"some\x1b[2J\nwords"
    error = failure(experiment, boards, tmp_path / "run")
    assert str(error) == "node n1 (rank 1) was killed by SIGKILL after step 3"
    assert error.log == "some [2J\nwords"
    assert error.details() == f"  | some [2J\n  | words\nwhat was measured is in {tmp_path / 'run'}"
    assert len(load(tmp_path / "run").steps["step"]) == 7  # what was measured is kept
    assert all(board.job is None for board in boards)


def test_a_reason_that_a_board_gives_is_told(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    boards[1].told, boards[1].end = lambda job: [*played(job, 1)], {"state": "failed", "error": "disk full", "exit": -9}
    error = failure(experiment, boards, tmp_path / "run")
    assert str(error) == "node n1 (rank 1) failed after step 1: disk full"


def test_a_board_that_is_gone_is_the_cause_once_its_lease_is_out(
    experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    fault = Fault(0, "n0", "link: connection lost", "", neighbour_lost=True)
    boards[0].told = lambda job: [*played(job, 2), 0.3, fault]
    boards[0].end = {"state": "failed", "error": "link: connection lost", "exit": 1}
    boards[2].told = lambda job: [*played(job, 2), 60.0]
    boards[1].told = lambda job: [*played(job, 1), None]
    boards[1].refuse = lambda method, path: _gone(boards[1]) if "after=3" in path else None
    began = time.monotonic()
    error = failure(experiment, boards, tmp_path / "run")
    assert str(error).startswith(f"node n1 (rank 1) on b1, {boards[1].address} is unreachable since ")
    assert "Connection refused" in str(error)
    assert LEASE < time.monotonic() - began < 8
    assert "POST /jobs/ID/cancel" in boards[2].asked


def _gone(board: Board) -> None:
    threading.Thread(target=board.close).start()
    time.sleep(0.1)
    raise OSError


def test_a_board_that_comes_back_in_time_is_listened_to(
    experiment: Experiment, boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LONGEST_PAUSE", 0.2)
    away = time.monotonic() + 1.2
    boards[1].told = lambda job: [*played(job, 2), None, *[*played(job)][4:]]
    boards[1].refuse = lambda method, path: _broken() if "after=4" in path and time.monotonic() < away else None
    run(experiment, boards, tmp_path / "run")
    assert load(tmp_path / "run").summary["status"] == "finished"


def _broken() -> None:
    raise OSError


def changed(event: Any, **values: Any) -> Any:
    return dataclasses.replace(event, **values)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda event: changed(event, rank=0), "step: found n1 (rank 0), allowed n1 (rank 1)"),
        (lambda event: changed(event, node="n\x1b2"), "step: found n 2 (rank 1), allowed n1 (rank 1)"),
        (lambda event: changed(event, step=event.step + 1), "step.step: found 2, allowed 1"),
        (lambda event: changed(event, duration_s=float("nan")), "step.duration_s: found nan, allowed a time"),
        (lambda event: changed(event, values_sent=-1), "step.values_sent: found -1, allowed a whole number"),
        (lambda event: b'{"seq": 3, "event": {"event": "fly"}}\n', "event: found 'fly', allowed "),
        (lambda event: b'{"seq": 4, "event": {"event": "step"}}\n', "seq: found 4, allowed 3"),
        (
            lambda event: b'{"seq": 3, "event": {"event": "fault\\u001b[2J"}}\n',
            "event: found 'fault\\x1b[2J', allowed ",
        ),
        (lambda event: b"pickle\n", "answered what is none of its answers"),
    ],
)
def test_nonsense_of_a_board_is_its_failure(
    spoil: Callable[[Any], Any], expected: str, experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    def told(job: Job) -> list[Any]:
        return [spoil(event) if isinstance(event, Step) and event.step == 1 else event for event in played(job)]

    boards[1].told = told
    error = failure(experiment, boards, tmp_path / "run")
    assert str(error).startswith(f"node n1 (rank 1) on b1, {boards[1].address} tells what no node would tell: ")
    assert expected in str(error)
    assert str(error).isprintable()
    assert "POST /jobs/ID/cancel" in boards[1].asked


@pytest.mark.parametrize(
    "arrays",
    [
        {"residual": np.zeros((8, 20), np.float32)},
        {"residual": np.zeros((8, 20), np.float32), "coarse": np.zeros((8, 21), np.float32)},
        {"residual": np.zeros((8, 20), np.float32), "coarse": np.zeros((8, 20), np.float64)},
        {"residual": np.zeros((8, 20), np.float32), "coarse": np.full((8, 20), np.nan, np.float32)},
        {"residual": np.zeros((8, 20), np.float32), "\x1b": np.zeros((8, 20), np.float32)},
        {},
    ],
)
def test_maps_of_another_shape_are_a_boards_failure(
    arrays: dict[str, Any], experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    boards[1].told = lambda job: [
        changed(event, arrays=arrays) if isinstance(event, Observation) else event for event in played(job)
    ]
    error = failure(experiment, boards, tmp_path / "run")
    assert "node n1 (rank 1) on b1" in str(error)
    assert "observation.arrays" in str(error)
    assert str(error).isprintable()


def test_a_sensor_that_gives_no_number_ends_no_run(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    broken = Telemetry(1, "n1", 1.0, gpu_percent=7.0, temperature_c=float("nan"))
    boards[1].told = lambda job: [broken, *played(job)]
    run(experiment, boards, tmp_path / "run")
    (sample,) = load(tmp_path / "run").telemetry["gpu_percent"]
    assert sample == 7.0


@pytest.mark.parametrize("missing", [{0, 4}, {4}])
def test_a_board_that_keeps_its_maps_to_itself_fails(
    missing: set[int], experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    boards[1].told = lambda job: [
        event for event in played(job) if not (isinstance(event, Observation) and event.step in missing)
    ]
    error = failure(experiment, boards, tmp_path / "run")
    assert f"tells what no node would tell: finished: found no maps of step {min(missing)}" in str(error)


def test_an_interrupt_leaves_no_board_behind(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    for board in boards:
        board.told, board.end = lambda job: [*played(job, 2), 60.0], None

    def watch(event: Any) -> None:
        if isinstance(event, Step) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(RunError) as caught:
        experiment.run(NoneSettings(), tmp_path / "run", fleet_of(boards), watch)
    assert caught.value.status == "interrupted"
    assert all("POST /jobs/ID/cancel" in board.asked and board.job is None for board in boards)


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("lease of", "events of"))}


def test_an_interrupt_while_boards_are_left_leaves_their_leases(
    experiment: Experiment, boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = remote.everywhere

    def interrupted(items: Any, ask: Any, within: float | None = None) -> Any:
        if within is not None:
            raise KeyboardInterrupt
        return asked(items, ask)

    monkeypatch.setattr(remote, "everywhere", interrupted)
    for board in boards:
        board.told, board.end = lambda job: [*played(job, 2), 5.0], None
    boards[1].told = lambda job: [Fault(job.rank, job.node, "broken", "")]
    with pytest.raises(RunError) as caught:
        run(experiment, boards, tmp_path / "run")
    assert caught.value.status == "interrupted"
    eventually(lambda: not _threads(), 3.0)


def test_no_connection_is_left_behind(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    run(experiment, boards, tmp_path / "run")
    ports = {board.address.port for board in boards}

    def open_ones() -> list[Any]:
        found = psutil.Process().net_connections("tcp")
        return [one for one in found if one.raddr and one.raddr.port in ports and one.status == "ESTABLISHED"]

    eventually(lambda: not open_ones(), 3.0)


def test_a_board_that_cannot_be_claimed_frees_the_others(
    experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    full = {"error": "disk full"}
    boards[2].refuse = lambda method, path: (507, full) if (method, path) == ("POST", "/jobs") else None
    error = failure(experiment, boards, tmp_path / "run")
    assert str(error) == "b2: disk full"
    assert error.details() == f"nothing was measured yet; what was asked is in {tmp_path / 'run'}"
    assert all(board.job is None and board.task is None for board in boards)


@pytest.mark.parametrize("place", ["/jobs", "/start"])
def test_answers_that_are_lost_are_asked_for_again(
    place: str, experiment: Experiment, boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "POLL", 0.1)
    board, lost = boards[1], list[str]()
    send = board._send

    def lossy(request: Any, code: int, body: Any) -> None:
        if (request.command, len(lost)) == ("POST", 0) and request.path.endswith(place):
            lost.append(request.path)
            raise OSError
        send(request, code, body)

    def in_the_way(method: str, path: str) -> tuple[int, dict[str, Any]] | None:
        if method == "POST" and path.endswith(place) and lost:
            assert board.job is not None
            board.job["lease_left_s"] = max(0.0, LEASE - (time.monotonic() - began))
            return 409, {"error": "found another state", "status": board.job}
        return None

    began = time.monotonic()
    monkeypatch.setattr(board, "_send", lossy)
    board.refuse = in_the_way
    if place == "/jobs":  # a lease that goes by
        monkeypatch.setattr(claiming, "_silent", lambda client, job: True)
    run(experiment, boards, tmp_path / "run")
    assert len(lost) == 1
    assert len(load(tmp_path / "run").steps["step"]) == 12


def test_a_board_may_be_away_while_it_is_started(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    tried: list[str] = []

    def away(method: str, path: str) -> None:
        if path.endswith("/start") and len(tried) < 3:
            tried.append(path)
            raise OSError

    boards[1].refuse = away  # type: ignore[assignment]
    run(experiment, boards, tmp_path / "run")
    assert len(tried) == 3


def test_a_board_that_two_nodes_name_is_told(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    def taken(method: str, path: str) -> tuple[int, dict[str, Any]] | None:
        held = (method, path) == ("POST", "/jobs") and boards[0].job
        return (409, {"error": "held", "status": held}) if held else None

    boards[0].refuse = taken
    error = failure(experiment, [boards[0], boards[2], boards[0]], tmp_path / "run")
    assert str(error) == (f"b2: {boards[0].address} is the board that b0 is, allowed a board of its own for every node")


def test_a_run_that_a_board_does_not_start_starts_nowhere_for_long(
    experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    body = {"error": "job.steps: found 4, allowed 3"}
    boards[2].refuse = lambda method, path: (422, body) if path.endswith("/start") else None
    assert str(failure(experiment, boards, tmp_path / "run")) == "b2: job.steps: found 4, allowed 3"
    assert all(board.job is None for board in boards)


@pytest.mark.parametrize(
    ("meeting", "expected"),
    [
        (None, "b0: has opened no port for the others to meet at"),
        ({"host": "evil\n", "port": 1}, "b0: meets at 'evil', allowed an IP address"),
        ({"host": "10.0.0.1", "port": 70000}, "b0: meets at port 70000, allowed 1 to 65535"),
    ],
)
def test_a_meeting_is_an_address_and_a_port(
    meeting: Any, expected: str, experiment: Experiment, boards: list[Board], tmp_path: Path
) -> None:
    own = boards[0]

    def claimed(method: str, path: str) -> tuple[int, dict[str, Any]] | None:
        if (method, path) != ("POST", "/jobs"):
            return None
        own.job = {"id": "a" * 32, "run": "r", "owner": "me", "state": "staging", "lease_s": 1.0, "lease_left_s": 1.0}
        own.job["meeting"] = meeting
        return 201, own.job

    own.refuse = claimed
    assert str(failure(experiment, boards, tmp_path / "run")) == expected


def test_what_differs_is_told_with_a_table(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    boards[1].facts["versions"] = {"edgesim": "0.0.9", "torch": "2.9.0+cpu"}
    boards[2].facts["versions"] = {"edgesim": "0.1.0", "torch": "2.13.0"}
    with pytest.raises(FleetError) as caught:
        fleet_of(boards).meet()
    assert str(caught.value).splitlines() == [
        "boards and controller differ in the version of edgesim and that of torch (the first two numbers count)",
        "                edgesim  torch",
        "  this machine  0.1.0    (trains nothing)",
        "  b0            0.1.0    2.9.1",
        "  b1            0.0.9    2.9.0+cpu",
        "  b2            0.1.0    2.13.0",
        "  --allow-versions makes the run all the same",
    ]
    said: list[str] = []
    experiment.run(NoneSettings(), tmp_path / "run", fleet_of(boards, said, allow_versions=True), lambda event: None)
    assert len(said) == 1
    assert said[0].startswith("warning: boards and controller differ in")
    boards[1].facts["versions"] = boards[2].facts["versions"] = {"edgesim": "0.1.0", "torch": "2.9.7+nv25.8"}
    fleet_of(boards).meet()


def test_boards_that_cannot_make_a_run_are_refused(experiment: Experiment, boards: list[Board], tmp_path: Path) -> None:
    boards[0].facts["versions"] = {"edgesim": "0.1.0", "torch": None}
    for board in boards[1:]:
        board.facts["versions"] = {"edgesim": "0.1.0", "torch": None}
    boards[1].facts |= {"address": "192.168.55.1", "boot": "two", "disk_limit_bytes": 1000}
    boards[2].facts |= {"address": "192.168.55.1", "boot": "three", "memory_limit_bytes": 1000}
    with pytest.raises(FleetError) as caught:
        fleet_of(boards).meet()
    assert str(caught.value).splitlines() == [
        "5 problems with the boards:",
        "  b0: torch is not installed there",
        "  b1: torch is not installed there",
        "  b2: torch is not installed there",
        "  b0: data plane: found 127.0.0.1 of lo, allowed an address that other boards reach (`interface` in its "
        "agent.yaml)",
        "  b2: data plane: found 192.168.55.1, which is that of b1 too, allowed an address of its own (`interface` in "
        "its agent.yaml)",
    ]
    for board in boards:
        board.facts["versions"] = {"edgesim": "0.1.0", "torch": "2.9.1"}
    boards[0].facts["address"], boards[2].facts["address"] = "10.0.0.1", "10.0.0.2"
    error = failure(experiment, boards, tmp_path / "run")
    assert str(error).splitlines() == [
        "2 problems with the boards:",
        "  b1: disk: found room for 1 kB, needed at least 20.61 kB for its strip of the scene",
        "  b2: memory: found room for 1 kB, needed at least 20.61 kB for its strip of the scene",
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_loopback_is_for_boards_of_one_host(order: tuple[int, ...], boards: list[Board]) -> None:
    for number in (1, 2):
        boards[number].facts |= {"address": f"10.0.0.{number}", "boot": "another" * number}
    with pytest.raises(FleetError, match=r"^b\d: data plane: found 127\.0\.0\.1 of lo, allowed an address") as caught:
        fleet_of([boards[number] for number in order]).meet()
    assert str(caught.value).startswith(f"b{order.index(0)}: ")


def test_agents_of_one_host_may_share_its_address(boards: list[Board]) -> None:
    for board in boards:
        board.facts["address"] = "10.0.0.1"
    fleet_of(boards).meet()
    boards[1].facts["boot"] = "another"
    with pytest.raises(FleetError, match=r"^b1: data plane: found 10\.0\.0\.1, which is that of b0 too"):
        fleet_of(boards).meet()


def test_boards_that_are_not_there_are_all_named(boards: list[Board]) -> None:
    for board in boards[1:]:
        board.close()
    with pytest.raises(FleetError) as caught:
        fleet_of(boards).meet()
    first, *others = str(caught.value).splitlines()
    assert first == "2 of 3 boards cannot be used:"
    assert others == [f"  b{i}: no connection to {boards[i].address}: Connection refused" for i in (1, 2)]


def test_plain_http_stays_on_this_machine() -> None:
    with pytest.raises(FleetError, match=r"b0: --insecure: found 10\.0\.0\.1:7443, allowed addresses of loopback"):
        RemoteFleet(Access(None, None), [Place("b0", Address("10.0.0.1"))], 1.0, False, print)


def test_boards_are_told_who_is_revoked_before_they_are_claimed(
    experiment: Experiment, boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[list[Any]] = []
    monkeypatch.setattr(Access, "tell_revoked", lambda self, clients, tell: states.append([c.jobs() for c in clients]))
    run(experiment, boards, tmp_path / "run")
    assert states == [[[], [], []]]


def test_names_of_runs_as_boards_take_them() -> None:
    assert run_name("leo-ring-4-20260101-120000") == "leo-ring-4-20260101-120000"
    assert run_name("my run!") == "my-run-"
    assert run_name("../..") == "run"
    assert len(run_name("x" * 500)) == 128
