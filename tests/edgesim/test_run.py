"""Whole runs, over real processes and sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from running import PATIENCE, command, edgesim, summary

from edgesim.results import Run, load

Write = Callable[..., Path]


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_run_trains_measures_and_draws(nodes: int, write_topology: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--no-figures",) if nodes == 2 else ()  # they are those of four
    done = edgesim("run", write_topology(nodes, "  compressor: gcc\n"), "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "gcc density=0.5" in done.stdout
    found = summary(out)
    assert found["status"] == "finished"
    assert found["nodes_agree"] is True
    assert found["steps"] == 12
    assert len(found["params_sha256"]) == 64
    assert 0.5 < found["metrics"]["auc"] <= 1.0
    assert {"auc_rx", "auc_ace", "auc_cem", "auc_brightness", "auc_untrained"} <= set(found["metrics"])
    assert [evaluation["step"] for evaluation in found["evaluations"]] == [0, 5, 10, 12]
    run = load(out)
    assert len(run.steps["step"]) == 12 * nodes
    assert len(run.links["step"]) == (12 * nodes if nodes > 1 else 0)
    losses = run.of_node("n0")["loss"]
    assert losses[-1] < losses[0]
    parts = sum(run.steps[f"{part}_s"] for part in ("compute", "encode", "wait", "transfer", "decode"))
    np.testing.assert_allclose(parts, run.steps["duration_s"], rtol=1e-6)
    if not options:
        assert (out / "figures" / "roc.png").stat().st_size > 10_000
        assert (out / "figures" / "throughput.png").exists() == (nodes > 1)
    if nodes > 1:
        for link in found["links"].values():
            assert link["applied"]["rate_bit_s"] == link["requested"]["rate_bit_s"] == 2e7
            assert link["measured"]["delay_s"] == pytest.approx(0.002, rel=0.05)
        assert all(found["bytes_sent"][node] < found["bytes_dense"][node] for node in found["nodes"])
        assert sum(found["bytes_sent"].values()) == run.steps["bytes_sent"].sum()
    assert_by_formula(run)


def assert_by_formula(run: Run) -> None:
    """Every node has sent in every step what the lengths of the payloads tell, to the byte."""
    np.testing.assert_array_equal(run.steps["formula_bytes"], run.steps["bytes_sent"])
    for source, target in run.ring:
        sent = run.summary["bytes_sent"][source]
        assert run.summary["ledger"][f"{source}->{target}"] == {"formula_bytes": sent, "encoded_bytes": sent}


def test_wall_and_virtual_clock_train_the_same_parameters_bit_for_bit(write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(3, "  compressor: {name: nsi, density: 0.1}\n", links="{rate: 3 Mbit/s, delay: 5 ms}")
    digests, times = [], []
    for clock in ("virtual", "wall"):
        done = edgesim("run", file, "--clock", clock, "--out", tmp_path / clock, "--no-figures")
        assert done.returncode == 0, done.stderr
        found = summary(tmp_path / clock)
        digests.append(found["params_sha256"])
        times.append(found["time_s"])
        run = load(tmp_path / clock)
        durations = max(run.of_node(node)["duration_s"].sum() for node in run.nodes)
        assert found["time_s"] == pytest.approx(durations, rel=0.05)
        assert_by_formula(run)
        sent = run.of_node("n0")["bytes_sent"]
        assert sent[0] > 1.2 * sent[-1]  # the warm-up's densities fall from step to step
    assert digests[0] == digests[1]
    assert times[1] > 0.9 * times[0]  # the links take most of it, the same under both clocks
    again = edgesim("run", file, "--seed", "4", "--out", tmp_path / "seed", "--no-figures")
    assert again.returncode == 0
    assert summary(tmp_path / "seed")["params_sha256"] != digests[0]


@pytest.mark.alone
def test_observing_a_run_does_not_change_it_nor_what_its_links_carry(write_topology: Write, tmp_path: Path) -> None:
    # One direction is slow: nodes end their steps at different moments, with messages still under way. A step occupies
    # the slow link with 7,768 gradients, 8 * 31 kB / 500 kbit/s = 0.5 s, in two halves.
    file = write_topology(2, links="{rate: 500 kbit/s}")
    file.write_text(file.read_text() + "links:\n  - {between: [n0, n1], reverse: {rate: 100 Mbit/s}}\n")
    times, digests = [], set()
    for clock, every in (("virtual", 0), ("virtual", 1), ("wall", 1)):
        out = tmp_path / f"{clock}-{every}"
        overrides = ("--set", f"training.evaluate_every={every}", "--set", "training.steps=3")
        done = edgesim("run", file, "--clock", clock, "--out", out, "--no-figures", *overrides)
        assert done.returncode == 0, done.stderr
        found = summary(out)
        times.append(found["time_s"])
        digests.add(found["params_sha256"])
        moments = [evaluation["time_s"] for evaluation in found["evaluations"]]
        assert moments == sorted(moments)
        assert moments[-1] == pytest.approx(found["time_s"])
        # Nothing is charged to training but training: the slow link is busy all the time.
        busy = load(out).of_link("n0", "n1")["busy_s"].sum()
        assert 0.98 * busy <= found["time_s"] <= (1.1 if clock == "virtual" else 1.6) * busy
    assert len(digests) == 1
    assert times[1] == pytest.approx(times[0], rel=0.05)


def test_what_is_not_sent_is_kept_unless_the_file_says_otherwise(write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(2, "  compressor: {name: topk, density: 0.05}\n", links="{delay: 5 ms, jitter: 1 ms}")
    digests = set()
    for feedback in ("true", "false"):
        override = f"training.compressor.error_feedback={feedback}"
        done = edgesim("run", file, "--set", override, "--out", tmp_path / feedback, "--no-figures")
        assert done.returncode == 0, done.stderr
        found = summary(tmp_path / feedback)
        digests.add(found["params_sha256"])
        delays = {link["measured"]["delay_s"] for link in found["links"].values()}
        assert len(delays) == 2  # each link has a jitter of its own
    assert len(digests) == 2


def test_a_dense_run_sends_what_the_formula_says(write_topology: Write, tmp_path: Path) -> None:
    done = edgesim("run", write_topology(3), "--out", tmp_path / "run", "--no-figures")
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "run")
    assert_by_formula(load(tmp_path / "run"))
    assert found["bytes_sent"] == found["bytes_dense"]
    assert found["ratio_wire"] == 1.0
    assert found["ratio_values"] == 1.0


def test_several_compressors_are_compared_on_the_same_links(write_topology: Write, tmp_path: Path) -> None:
    out = tmp_path / "both"
    done = edgesim(
        "run", write_topology(2), "--compressor", "none", "--compressor", "topk", "--out", out, "--json", "--no-figures"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["runs"]
    assert [row["compressor"] for row in rows] == ["none", "topk density=0.01"]
    assert rows[1]["ratio_wire"] > 5
    assert (out / "1-none" / "summary.json").exists()
    assert (out / "2-topk" / "summary.json").exists()
    for name in ("1-none", "2-topk"):
        assert_by_formula(load(out / name))
    again = edgesim("run", write_topology(2), "--out", out / "1-none")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    table = edgesim("compare", out, "--out", tmp_path / "figures")
    assert table.returncode == 0, table.stderr
    assert "topk density=0.01" in table.stdout
    assert (tmp_path / "figures" / "roc.png").exists()


def test_a_fast_link_before_a_slow_one_does_not_make_its_messages_too_long(
    write_topology: Write, tmp_path: Path
) -> None:
    file = write_topology(2, links="{rate: 100 Mbit/s}")
    file.write_text(file.read_text() + "links:\n  - {between: [n0, n1], reverse: {rate: 200 kbit/s}}\n")
    changes = ("--set", "training.steps=1", "--set", "training.network=[400]", "--set", "training.bucket=1 MB")
    done = edgesim("run", file, *changes, "--out", tmp_path / "run", "--no-figures")
    assert done.returncode == 0, done.stderr
    # 26,032 gradients in two chunks of 52,064 bytes, each of four messages of up to 16 KiB, sent in two hops
    assert load(tmp_path / "run").links["messages"].tolist() == [8, 8]


def test_dense_bytes_count_the_buckets_that_were_used(write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(2, "  bucket: 2 kB\n", links="{rate: 20 Mbit/s, loss: 10 %}")
    done = edgesim("run", file, "--out", tmp_path / "run", "--no-figures")
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "run")
    assert_by_formula(load(tmp_path / "run"))
    assert found["bytes_sent"] == found["bytes_dense"]
    assert all(0.05 < link["measured"]["loss"] < 0.2 for link in found["links"].values())


def test_a_slow_link_costs_virtual_time_only(write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(2, links="{rate: 10 kbit/s, delay: 600 ms}")
    done = edgesim("run", file, "--out", tmp_path / "run", "--no-figures")
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "run")
    assert found["time_s"] > 300
    assert found["wall_s"] < found["time_s"]


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if under_way(out, step):
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"step {step} was not reached: {process.communicate()}")


def under_way(out: Path, step: int) -> bool:
    """Whether a run has reached a step and measured what it takes."""
    steps, telemetry = ((out / f"{name}.csv") for name in ("steps", "telemetry"))
    return steps.exists() and f"\n{step}," in steps.read_text() and telemetry.read_text().count("\n") > 1


def node_processes(out: Path) -> dict[str, int]:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return {event["node"]: event["pid"] for event in events if event["event"] == "started"}


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if running_still(pid)]:
        assert time.monotonic() < deadline, f"{alive} are still there"
        time.sleep(0.05)


def running_still(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


SLOW = "{rate: 2 Mbit/s, delay: 1 ms}"


@pytest.fixture
def slow(write_topology: Write, tmp_path: Path) -> tuple[str | Path, ...]:
    """Arguments of a run on the wall clock that takes its time."""
    file = write_topology(3, "  compressor: none\n", links=SLOW)
    file.write_text(file.read_text().replace("timeout: 20 s", "timeout: 600 s"))
    return "run", file, "--clock", "wall", "--out", tmp_path / "run", "--set", "training.steps=1000"


@pytest.fixture
def running(slow: tuple[str | Path, ...], tmp_path: Path) -> Any:
    """The slow run in a process of its own, at step 3."""
    out = tmp_path / "run"
    process = subprocess.Popen(command(*slow), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_step(out, 3, process)
        yield process, out, node_processes(out)
    finally:
        process.kill()
        process.communicate()


def ended_at_step(
    out: Path, step: int, end: Callable[[dict[str, int]], None], arguments: tuple[str | Path, ...]
) -> tuple[subprocess.CompletedProcess[str], float, list[int]]:
    """A run here, which `end(pids of the nodes)` ends from another thread once `step` is reached; how long it took to
    end, s; and the pids."""
    moment, pids, over = 0.0, [], threading.Event()

    def watch() -> None:
        nonlocal moment
        while not over.wait(0.05):
            if under_way(out, step):
                nodes = node_processes(out)
                pids.extend(nodes.values())
                moment = time.monotonic()
                end(nodes)
                return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        done = edgesim(*arguments)
        return done, time.monotonic() - moment, pids
    finally:
        over.set()
        watching.join()


def test_a_killed_node_ends_the_run_at_once_and_is_named(slow: tuple[str | Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    done, took, pids = ended_at_step(out, 3, lambda nodes: os.kill(nodes["n1"], signal.SIGKILL), slow)
    assert took < 120  # long before a neighbour's silence would tell
    assert done.returncode == 1
    assert "node n1 (rank 1) was killed by SIGKILL after step" in done.stderr
    assert "Traceback" not in done.stderr
    assert_gone(pids)
    found = summary(out)
    assert found["status"] == "failed"
    assert "n1" in found["error"]
    assert found["steps"] >= 2  # of the slowest node
    assert load(out).steps["step"].max() >= 3


@pytest.mark.parametrize("there", ["logs/n1.log", "events.jsonl"])
def test_an_interrupt_from_the_terminal_is_clean_from_the_first_moment(
    there: str, write_topology: Write, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command("run", write_topology(2), "--out", tmp_path / "run", "--set", "training.steps=100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "run" / there).exists():
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_cleanly_and_keeps_what_was_measured(
    number: int, slow: tuple[str | Path, ...], tmp_path: Path
) -> None:
    """So does a request to end."""
    out = tmp_path / "run"
    before = signal.signal(number, signal.default_int_handler)  # under nohup it would be ignored
    try:
        done, _, pids = ended_at_step(out, 3, lambda nodes: os.kill(os.getpid(), number), slow)
    finally:
        signal.signal(number, before)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(pids) == 3
    assert_gone(pids)
    assert summary(out)["status"] == "interrupted"
    assert len(load(out).telemetry["rss_bytes"]) > 0
    assert load(out).steps["step"].max() >= 3


def test_nodes_do_not_outlive_a_controller_that_was_killed(running: Any) -> None:
    """Also not one that is stopped, as by a pause: none of its threads can see that the controller is gone."""
    process, out, pids = running
    os.kill(pids["n2"], signal.SIGSTOP)
    process.kill()
    process.communicate()
    assert_gone(list(pids.values()))
    run = load(out)
    assert run.summary == {}
    assert run.steps["step"].max() >= 3
    table = edgesim("compare", out)
    assert table.returncode == 0, table.stderr
    assert "none  killed" in table.stdout
    assert json.loads(edgesim("compare", out, "--json").stdout)["runs"][0]["bytes_per_node"] > 0


def test_nodes_that_wait_for_a_slow_link_do_not_outlive_their_controller(write_topology: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    file = write_topology(2, links="{delay: 5 min}")
    process = subprocess.Popen(
        command("run", file, "--clock", "wall", "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while not (out / "logs" / "n1.log").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(family) >= 3  # the fork server and two nodes
    process.kill()
    process.wait()
    assert_gone(family)


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(write_topology: Write, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("run", write_topology(2), "--out", tmp_path / "run", "--set", "training.steps=60", "--no-figures"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 0
    assert summary(tmp_path / "run")["status"] == "finished"


def test_a_full_disk_under_its_output_does_not_end_a_run(write_topology: Write, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("run", write_topology(1), "--out", tmp_path / "run", "--no-figures"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    unwritten = "the output cannot be written: No space left on device"
    assert done.stderr == f"edgesim: {unwritten}; the run is in {tmp_path / 'run'}\n"
    assert summary(tmp_path / "run")["status"] == "finished"


def test_a_contact_that_never_comes_again_is_one_clear_error(write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(2, links="{rate: 1 Mbit/s, schedule: [{from: 0 s, to: 2 s}]}")
    done = edgesim("run", file, "--out", tmp_path / "run", "--set", "training.steps=500")
    assert done.returncode == 1
    assert "finds too little contact left: the last contact window ends at 2.000 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert summary(tmp_path / "run")["status"] == "failed"
    assert summary(tmp_path / "run")["steps"] > 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for 64 KiB: of a file system that is mounted in the namespace of a process of its own."""
    mount = f"mount -t tmpfs -o size=64k none {tmp_path} && echo mounted && exec cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("no unshare command")
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip("this user may not mount a file system of its own")
        yield Path(f"/proc/{holder.pid}/root{tmp_path}")


def test_a_full_disk_is_one_clear_error(small_disk: Path, write_topology: Write) -> None:
    done = edgesim("run", write_topology(3), "--out", small_disk / "run", "--set", "training.steps=2000")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    # what was measured before is still there
    assert len((small_disk / "run" / "steps.csv").read_text().splitlines()) > 20


@pytest.mark.alone
def test_events_stop_nodes_and_links_under_both_clocks(write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(2, "  compressor: {name: topk, density: 0.5}\n", links="{rate: 3 Mbit/s, delay: 2 ms}")
    with file.open("a") as text:
        text.write(
            "events:\n  - {at: 300 ms, event: pause, node: n1, for: 1 s}\n"
            "  - {at: 1.6 s, event: down, link: [n0, n1], for: 1500 ms}\n"
        )
    for clock in ("virtual", "wall"):
        out = tmp_path / clock
        done = edgesim("run", file, "--clock", clock, "--out", out, "--no-figures", "--set", "training.steps=60")
        assert done.returncode == 0, done.stderr
        found = summary(out)
        assert found["nodes_agree"] is True
        run = load(out)
        slow = np.sort(run.of_node("n0")["duration_s"])[::-1]
        # Two steps are held up, one by the pause and one by the closed link, and no other is.
        assert 0.8 < slow[1] <= slow[0] < 3.0
        assert slow[2] < 0.7
        waits = [event["until_s"] for event in run.events_of("waiting")]
        assert waits
        assert all(until == pytest.approx(3.1) for until in waits)
        if clock == "wall":
            assert [(event["node"], event["seconds"]) for event in run.events_of("paused")] == [("n1", 1.0)]
            assert "n1: pauses for 1 s" in done.stdout
            assert "no contact, waits" in done.stdout
