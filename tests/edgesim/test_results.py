"""The run folder: what is written can be read, whatever ended the run."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesim.results import Run, RunFolder, RunFolderError, load, ring_links
from edgesim.summary import disagreement, measured, summarise
from node_agent.events import (
    Event,
    Fault,
    Finished,
    Observation,
    Received,
    Sensors,
    Sent,
    Started,
    Step,
    StepParts,
    Telemetry,
)
from node_agent.job import LinkSettings

ROOT = Path(__file__).parents[2]
NODES = "abcdefghijklmnop"
PARTS = StepParts(compute=0.1, encode=0.02, wait=0.03, transfer=0.2, decode=0.05)


def step(rank: int, number: int, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "rank": rank,
        "node": NODES[rank],
        "step": number,
        "time_s": 0.4 * number,
        "duration_s": 0.4,
        "loss": 1 / number,
        "parts": PARTS,
        "sent": Sent(2, 1000, 50, 100, 0.2, 0.01, 0.0),
        "received": Received(0.005, 0.006, 2, 8000.0, 0.1),
        "values_sent": 250,
        "density": 0.02,
        "fingerprint": 2**63 + number,
        "formula_bytes": 1050,
    }
    return Step(**{**values, **changes})


def new_folder(path: Path, nodes: str) -> RunFolder:
    links = [
        LinkSettings(source=source, target=target, rate=1e5, delay=0.005) for source, target in ring_links(list(nodes))
    ]
    folder = RunFolder.create(path)
    folder.write_topology("name: test\n")
    folder.write_config(
        {
            "name": "test",
            "nodes": list(nodes),
            "clock": "virtual",
            "compressor": {"name": "none"},
            "links": [link.model_dump() for link in links],
            "topology": {
                "seed": 7,
                "emulation": {"links": "userspace"},
                "training": {"workload": "background", "goal": 0.85},
            },
        }
    )
    return folder


def written(path: Path, nodes: str, events: list[Event], evaluations: dict[int, float] | None = None) -> Run:
    """A folder of these events, and of evaluations: AUC by step, every 0.4 s."""
    folder = new_folder(path, nodes)
    for event in events:
        folder.record(event)
    for number, auc in (evaluations or {}).items():
        folder.record_evaluation(number, 0.4 * number, {"auc": auc})
    folder.close()
    return load(path)


def summary_of(run: Run, **changes: Any) -> dict[str, Any]:
    return summarise(run, **{"wall_s": 3.0, **changes})


def started(rank: int, rate: float = 1e5, parameters: int = 1000) -> Started:
    link = LinkSettings(source="ab"[rank], target="ba"[rank], rate=rate, delay=0.005)
    facts = {"parameters": parameters, "bands_dropped": [3], "non_finite": 2, "negative": rank, "empty_pixels": 0}
    return Started(rank, "ab"[rank], 1, facts, Sent(1, 500, 12), 0.25 + rank, 2100, link)


def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    telemetry = Telemetry(
        *(1, "b", 0.5, 97.5, 2**31, 3),
        gpu_percent=12.0,
        temperatures_c={"cpu": 48.5, "gpu": 47.0},
        rails_w={"VDD_IN": 4.824, "VDD_SOC": -0.04},
        total_w=5.0,
        power_source="VDD_IN by ina3221 hwmon",
        disk_free_bytes=2**40,
    )
    run = written(tmp_path, "ab", [step(0, 1), step(1, 1, loss=math.nan), telemetry])
    assert run.topology == "name: test\n"
    assert run.nodes == ["a", "b"]
    assert run.summary == {}
    assert run.maps == {}
    assert run.steps["node"].tolist() == ["a", "b"]
    assert run.steps["bytes_sent"].tolist() == [1050, 1050]
    assert run.steps["fingerprint"].tolist() == [2**63 + 1] * 2
    assert math.isnan(run.steps["loss"][1])
    assert [run.steps[f"{part}_s"][0] for part in ("compute", "encode", "wait", "transfer", "decode")] == [
        *(0.1, 0.02, 0.03, 0.2, 0.05)
    ]
    told = {name: value for name, value in vars(telemetry).items() if value is not None}
    told |= {"temperatures_c": "cpu=48.5 gpu=47", "rails_w": "VDD_IN=4.824 VDD_SOC=-0.04"}
    found = {name: column.tolist() for name, column in run.telemetry.items()}
    assert {name: found[name] for name in told} == {name: [value] for name, value in told.items()}
    assert found["mode"] == [""]
    assert all(math.isnan(*found[name]) for name in found.keys() - told.keys() - {"mode"})


def test_a_link_row_joins_what_its_sender_and_its_receiver_counted(tmp_path: Path) -> None:
    events: list[Event] = [
        step(0, 1, sent=Sent(messages=3, payload_bytes=30), received=Received(delay_s=0.3, delay_samples=1)),
        step(1, 1, sent=Sent(messages=4, payload_bytes=40), received=Received(delay_s=0.4, delay_samples=1)),
        step(2, 1, sent=Sent(messages=5, payload_bytes=50), received=Received()),
    ]
    run = written(tmp_path, "abc", events)
    # c -> a is sent by c and received by a; b -> c was received by c, who had no sample of its delay.
    found = {
        (str(source), str(target)): (int(messages), float(delay))
        for source, target, messages, delay in zip(
            *(run.links[name] for name in ("source", "target", "messages", "delay_s")), strict=True
        )
    }
    assert found.keys() == {("a", "b"), ("b", "c"), ("c", "a")}
    assert found["c", "a"] == (5, 0.3)
    assert found["a", "b"] == (3, 0.4)
    assert found["b", "c"][0] == 4
    assert math.isnan(found["b", "c"][1])


@settings(max_examples=25, deadline=None)
@given(st.permutations([(rank, number) for rank in range(3) for number in (1, 2, 3)]))
def test_the_order_in_which_nodes_report_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[int, int]]
) -> None:
    run = written(tmp_path_factory.mktemp("order") / "run", "abc", [step(*which) for which in order])
    for link in run.ring:
        rows = run.of_link(*link)
        assert rows["step"].tolist() == [1, 2, 3]
        assert rows["delay_s"].tolist() == [0.005] * 3


def test_a_row_is_on_disk_as_soon_as_both_ends_reported(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "ab")
    folder.record(step(0, 1))
    assert len(load(tmp_path).links["step"]) == 0
    folder.record(step(1, 1))
    now = load(tmp_path)
    assert sorted(now.links["source"].tolist()) == ["a", "b"]
    assert len(now.steps["step"]) == 2
    folder.close()


def test_what_only_one_end_reported_is_kept_with_empty_cells(tmp_path: Path) -> None:
    run = written(tmp_path, "ab", [step(0, 1)])
    lines = (tmp_path / "links.csv").read_text().splitlines()
    assert lines[1] == "1,0.4,a,b,2,1000,50,100,0.2,0.01,0,0,,,,,,"
    assert lines[2] == "1,,b,a,,,,,,,,,0.005,0.006,2,8000,0.1,"
    assert len(run.of_link("a", "b")["step"]) == 1
    assert len(run.of_link("b", "a")["step"]) == 0
    assert math.isnan(run.links["messages"][1])
    assert measured(run.of_link("a", "b")) == {
        "rate_bit_s": None,
        "delay_s": None,
        "jitter_s": None,
        "loss": 100 / 1150,
    }


def test_a_single_node_has_no_links(tmp_path: Path) -> None:
    run = written(tmp_path, "a", [step(0, 1, sent=Sent(), received=Received())])
    assert len(run.links["step"]) == 0
    summary = summary_of(run)
    assert summary["links"] == {}
    assert summary["link_utilisation"] == {}
    assert summary["ratio_wire"] is None
    assert summary["bytes_sent"] == {"a": 0}


def test_events_are_kept_in_full_but_for_arrays_and_steps(tmp_path: Path) -> None:
    facts = {"bands": np.int64(200), "dropped": (1, 2), "scale": math.inf, "note": "line\u2028break"}
    run = written(
        tmp_path,
        "ab",
        [
            Started(0, "a", 17, facts, Sent(1, 2, 3), link=LinkSettings(source="a", target="b", rate=1e5)),
            step(0, 1),
            Observation(0, "a", 0, 0.0, {"residual": np.zeros((3, 4))}),
            Fault(1, "b", "ValueError: no", "Traceback\n  here\n"),
        ],
    )
    assert [event["event"] for event in run.events] == ["started", "observation", "fault"]
    assert run.events[0]["facts"] == {
        "bands": 200,
        "dropped": [1, 2],
        "scale": None,
        "note": "line\u2028break",
    }
    assert run.events[0]["sent"]["header_bytes"] == 3
    assert LinkSettings.model_validate(run.events[0]["link"]).rate == 1e5
    assert run.events[1]["shapes"] == {"residual": [3, 4]}
    assert run.events[2]["traceback"] == "Traceback\n  here\n"


def test_maps_survive(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "a")
    maps = {
        "score": np.arange(6, dtype=np.float32).reshape(2, 3),
        "target": np.eye(2, 3) > 0,
        "rgb": np.full((2, 3, 3), 7, np.uint8),
    }
    folder.write_maps(maps)
    folder.close()
    read = load(tmp_path).maps
    assert read.keys() == maps.keys()
    for name, array in maps.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_summary_by_hand(tmp_path: Path) -> None:
    """Two nodes, two steps: 1150 bytes a node and step, of which 100 were sent again."""
    events: list[Event] = [started(0), started(1)]
    events += [step(rank, number) for number in (1, 2) for rank in range(2)]
    events += [Finished(rank, "ab"[rank], 0.8 + 0.1 * rank, 2, "ff" * 32, 1000) for rank in range(2)]
    run = written(tmp_path, "ab", events, {0: 0.8, 1: 0.86, 2: 0.9})
    summary = summary_of(run)
    assert summary["status"] == "finished"
    assert summary["error"] is None
    assert (summary["name"], summary["seed"], summary["nodes"]) == ("test", 7, ["a", "b"])
    assert (summary["clock"], summary["links_imposed"]) == ("virtual", "userspace")
    assert (summary["steps"], summary["time_s"], summary["wall_s"]) == (2, 0.9, 3.0)
    assert summary["time_to_target_s"] == 0.4
    assert summary["setup_s"] == 1.25
    assert summary["metrics"] == {"loss": 0.5, "auc": 0.9}
    assert summary["metrics_step"] == 2
    assert summary["evaluations"] == [
        {"step": 0, "time_s": 0, "auc": 0.8},
        {"step": 1, "time_s": 0.4, "auc": 0.86},
        {"step": 2, "time_s": 0.8, "auc": 0.9},
    ]
    assert summary["mended"] == {"bands_dropped": [3], "non_finite": 4, "negative": 1, "empty_pixels": 0}
    assert summary["bytes_sent"] == {"a": 2100, "b": 2100}
    assert summary["bytes_retransmitted"] == {"a": 200, "b": 200}
    assert summary["bytes_setup"] == {"a": 512, "b": 512}
    assert summary["bytes_dense"] == {"a": 4200, "b": 4200}
    assert summary["ratio_wire"] == 2.0
    # 1000 values a step and node, of which 250 were sent.
    assert summary["ratio_values"] == 4.0
    assert summary["step_time_s"] == pytest.approx({"p50": 0.4, "p95": 0.4, **vars(PARTS)})
    # 2 x 0.2 s busy in 0.8 s.
    assert summary["link_utilisation"] == pytest.approx({"a->b": 0.5, "b->a": 0.5})
    link = summary["links"]["a->b"]
    assert link["requested"] == {
        "rate_bit_s": 1e5,
        "delay_s": 0.005,
        "jitter_s": 0.0,
        "jitter_kind": "normal",
        "loss": 0.0,
        "bursts": None,
        "queue_bytes": None,
        "overhead_bytes": 0,
        "schedule": None,
        "changes": 0,
        "deadline_s": None,
        "reorder": False,
    }
    assert link["applied"] == link["requested"]
    assert link["measured"] == pytest.approx({"rate_bit_s": 8e4, "delay_s": 0.005, "jitter_s": 0.0, "loss": 100 / 1150})
    assert summary["energy_j"] is None
    assert summary["params_sha256"] == "ff" * 32
    assert summary["nodes_agree"] is True


def test_a_summary_of_nodes_and_steps_that_differ(tmp_path: Path) -> None:
    """Means over nodes, percentiles over all steps, and the rate of all bursts together."""
    events: list[Event] = []
    for number in range(1, 101):
        received = Received(0.005, 0.006, 1, 1000.0 * number, 0.1) if number < 100 else Received()
        for rank in range(2):
            changes = {"duration_s": 0.01 * number, "loss": 1.0 + rank, "received": received}
            events.append(step(rank, number, **changes))
    summary = summary_of(written(tmp_path, "ab", events))
    assert summary["metrics"]["loss"] == 1.5
    assert summary["step_time_s"]["p50"] == pytest.approx(0.505, abs=0.006)
    assert summary["step_time_s"]["p95"] == pytest.approx(0.95, abs=0.011)
    assert summary["links"]["a->b"]["measured"]["rate_bit_s"] == pytest.approx(1000 * sum(range(1, 100)) / 9.9)


def test_a_delay_is_the_mean_over_all_its_samples(tmp_path: Path) -> None:
    events = [step(0, 1, received=Received(0.01, 0.01, 3)), step(0, 2, received=Received(0.05, 0.05, 1))]
    summary = summary_of(written(tmp_path, "ab", [*events, step(1, 1), step(1, 2)]))
    assert summary["links"]["b->a"]["measured"]["delay_s"] == pytest.approx(0.02)


def test_jitter_is_the_spread_of_all_delays_about_their_common_mean(tmp_path: Path) -> None:
    # 1 and 3 ms, then 5 and 7 ms: about 4 ms the squares are 9, 1, 1 and 9, their mean 5
    events = [
        step(0, 1, received=Received(0.002, 0.003, 2, delay_sd_s=0.001)),
        step(0, 2, received=Received(0.006, 0.007, 2, delay_sd_s=0.001)),
    ]
    summary = summary_of(written(tmp_path, "ab", [*events, step(1, 1), step(1, 2)]))
    assert summary["links"]["b->a"]["measured"]["jitter_s"] == pytest.approx(0.001 * 5**0.5)


def test_a_float32_survives(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).random(50, np.float32)
    run = written(tmp_path, "a", [step(0, place + 1, loss=float(loss)) for place, loss in enumerate(losses)])
    assert np.array_equal(run.steps["loss"].astype(np.float32), losses)


def test_a_file_that_cannot_be_written_whole_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path, "a")
    folder.write_summary({"name": "before"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFolderError, match="disk full"):
        folder.write_summary({"name": "after"})
    folder.close()
    assert load(tmp_path).summary == {"name": "before"}
    assert not list(tmp_path.glob(".*"))


def test_the_summary_is_strict_json_whatever_was_measured(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "ab")
    folder.record(step(0, 1, loss=math.inf))
    folder.record_evaluation(1, 0.4, {"auc": math.nan, "auc_rx": np.float32(0.5)})
    folder.close()
    folder.write_summary(summary_of(load(tmp_path)))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert read["metrics"] == {"loss": None, "auc": None, "auc_rx": 0.5}
    assert load(tmp_path).summary == read


def test_a_failed_run_is_summed_up_to_where_it_came(tmp_path: Path) -> None:
    events: list[Event] = [started(0, parameters=500), started(1, parameters=500), step(0, 1), step(1, 1), step(0, 2)]
    events += [Fault(1, "b", "MemoryError", "…")]
    summary = summary_of(written(tmp_path, "ab", events), status="failed", error="node b: MemoryError")
    assert summary["status"] == "failed"
    assert summary["error"] == "node b: MemoryError"
    assert summary["steps"] == 1
    assert summary["time_s"] == 0.8
    assert summary["bytes_sent"] == {"a": 2100, "b": 1050}
    assert summary["bytes_dense"] == {"a": 4200, "b": 2100}  # of the steps that each came to
    assert summary["bytes_setup"] == {"a": 512, "b": 512}
    assert summary["ratio_values"] == 2.0
    assert summary["nodes_agree"] is None
    assert summary["params_sha256"] is None


def test_a_run_without_any_step_is_summed_up(tmp_path: Path) -> None:
    summary = summary_of(written(tmp_path, "ab", []), status="failed", error="no node started")
    assert summary["steps"] == 0
    assert summary["time_s"] == 0
    assert summary["step_time_s"]["p50"] is None
    assert summary["links"]["a->b"]["measured"] == dict.fromkeys(("rate_bit_s", "delay_s", "jitter_s", "loss"))


@pytest.mark.parametrize("differs", ["fingerprint", "digest"])
def test_nodes_that_disagree_are_found_out(tmp_path: Path, differs: str) -> None:
    events: list[Event] = [step(rank, number) for number in (1, 2) for rank in range(3)]
    events += [step(rank, 3, fingerprint=rank if differs == "fingerprint" else 0) for rank in range(3)]
    events += [
        Finished(rank, "abc"[rank], 1.2, 3, "0a"[rank % 2 if differs == "digest" else 0] * 64, 9) for rank in range(3)
    ]
    run = written(tmp_path, "abc", events)
    assert disagreement(run) == (3 if differs == "fingerprint" else None)
    summary = summary_of(run)
    assert summary["nodes_agree"] is False
    assert summary["params_sha256"] is None


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    written(tmp_path / "run", "ab", [step(0, 1)])
    before = (tmp_path / "run" / "steps.csv").read_bytes()
    with pytest.raises(RunFolderError, match=r"run: already holds a run \(found topology.yaml\)"):
        RunFolder.create(tmp_path / "run")
    assert (tmp_path / "run" / "steps.csv").read_bytes() == before


def test_a_folder_that_holds_something_else_is_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot create the run folder: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run")
    with pytest.raises(RunFolderError, match="cannot create the run folder"):
        RunFolder.create("/proc/edgesim/run")


def test_default_paths_are_never_taken_twice(tmp_path: Path) -> None:
    now = datetime(2031, 2, 3, 4, 5, 6)
    names = []
    for _ in range(3):
        path = RunFolder.default_path(tmp_path, "leo ring/4", now)
        names.append(path.name)
        RunFolder.create(path).close()
    stem = "leo-ring-4-20310203-040506"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_paths_inside(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    assert folder.figure_path("roc") == tmp_path / "figures" / "roc.png"
    folder.log_path("sat/0").write_text("a node may write here at once")
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["sat-0.log"]
    folder.close()


def test_a_row_of_telemetry_is_a_line_whatever_a_board_calls_its_sensors(tmp_path: Path) -> None:
    telemetry = Telemetry(0, "a", 1.0, mode='15W\n"high"', temperatures_c={"cpu\r\nzone,0": 41.0})
    run = written(tmp_path, "a", [telemetry, Telemetry(0, "a", 2.0)])
    assert run.telemetry["mode"].tolist() == ['15W "high"', ""]
    assert run.telemetry["temperatures_c"].tolist() == ["cpu zone,0=41", ""]


def finished(rank: int, **energy: Any) -> Finished:
    return Finished(rank, NODES[rank], 0.8, 2, "ff" * 32, 1000, **energy)


def test_energy_is_told_with_what_it_is_of(tmp_path: Path) -> None:
    """a and c are on one machine, which took 25.5 J by the account of a: half of that is a's part."""
    rails = {"energy_j": 25.5, "power_source": "VDD_IN by ina3221 hwmon", "energy_unmeasured_s": 7.5}
    events: list[Event] = [step(rank, 1) for rank in range(3)]
    events += [Sensors(rank, node, machine, {}) for rank, (node, machine) in enumerate(zip("abc", "xyx", strict=True))]
    run = written(tmp_path, "abc", [*events, finished(0, **rails), finished(1, **rails), finished(2)])
    summary = summarise(run)
    assert summary["energy_j"] == {"a": 12.75, "b": 25.5, "c": None}
    assert summary["energy_unmeasured_s"] == {"a": 7.5, "b": 7.5, "c": None}
    unknown = "without 7.5 s in which it was not known"
    assert summary["energy_source"] == {
        "a": f"measured: VDD_IN by ina3221 hwmon, an equal part of what the machine of a, c took, {unknown}",
        "b": f"measured: VDD_IN by ina3221 hwmon, {unknown}",
        "c": None,
    }


def test_energy_of_nodes_that_share_a_machine_comes_to_that_of_the_machine(tmp_path: Path) -> None:
    """Its counter told each of them of all 40 J, but for the moment before the first reading."""
    rapl = {"energy_j": 40.0, "power_source": "RAPL package, of the whole host", "energy_unmeasured_s": 0.0004}
    events: list[Event] = [step(rank, 1) for rank in range(2)]
    events += [Sensors(rank, node, "one", {}) for rank, node in enumerate("ab")]
    summary = summarise(written(tmp_path, "ab", [*events, finished(0, **rapl), finished(1, **rapl)]))
    assert sum(summary["energy_j"].values()) == 40.0
    told = "measured: RAPL package, of the whole host, an equal part of what the machine of a, b took"
    assert summary["energy_source"] == {"a": told, "b": told}
    assert summary["energy_unmeasured_s"] == {"a": 0.0004, "b": 0.0004}


def test_measured_energy_wins_over_modelled(tmp_path: Path) -> None:
    """At rest 5 W for 0.4 s, and 5 W more while the node computes, encodes and decodes: 0.17 s."""
    folder = new_folder(tmp_path, "ab")
    config = json.loads((tmp_path / "config.json").read_text())
    board = {"board": "Board", "mode": "15W", "power_w": {"idle": 5.0, "loaded": 10.0}}
    folder.write_config({**config, "boards": {"a": board, "b": board}})
    for event in (step(0, 1), step(1, 1), finished(0, energy_j=3.0, power_source="VDD_IN"), finished(1)):
        folder.record(event)
    folder.close()
    summary = summarise(load(tmp_path))
    assert summary["energy_j"] == {"a": 3.0, "b": pytest.approx(5 * 0.4 + 5 * 0.17)}
    assert summary["energy_source"] == {"a": "measured: VDD_IN", "b": "modelled: Board, mode 15W"}


def test_energy_of_a_node_that_did_not_finish_is_that_of_its_last_sample(tmp_path: Path) -> None:
    power = {"power_source": "VDD_IN", "energy_unmeasured_s": 0.0}
    samples = [Telemetry(0, "a", host_s, energy_j=joules, **power) for host_s, joules in ((1.0, 5.0), (2.0, 11.0))]
    run = written(tmp_path, "ab", [step(0, 1), step(1, 1), *samples, Telemetry(1, "b", 2.0)])
    summary = summarise(run, status="killed")
    assert summary["energy_j"] == {"a": 11.0, "b": None}
    assert summary["energy_source"] == {"a": "measured: VDD_IN, until 2 s, the last sample", "b": None}


def test_steps_before_the_configuration_are_an_error(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    with pytest.raises(ValueError, match="configuration must be written before"):
        folder.record(step(0, 1))
    folder.close()


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=0, max_value=2000), name=st.sampled_from(["steps.csv", "links.csv"]))
def test_a_table_cut_short_anywhere_is_read_up_to_its_last_whole_row(
    tmp_path_factory: pytest.TempPathFactory, cut: int, name: str
) -> None:
    path = tmp_path_factory.mktemp("cut") / "run"
    whole = written(path, "ab", [step(rank, number) for number in (1, 2, 3) for rank in range(2)])
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:cut])
    rows = max(content[:cut].count(b"\n") - 1, 0)
    table, before = (getattr(run, name.removesuffix(".csv")) for run in (load(path), whole))
    for column, cells in table.items():
        np.testing.assert_array_equal(cells, before[column][:rows])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("steps.csv", "step,rank\n1,2\n", "steps.csv:1: column node is missing"),
        ("telemetry.csv", "rank,node,host_s,cpu_percent,rss_bytes,threads\n1,a\n", "telemetry.csv:2: found 2"),
        (
            "telemetry.csv",
            "rank,node,host_s,cpu_percent,rss_bytes,threads\nx,a,1,1,1,1\n",
            "telemetry.csv: invalid",
        ),
        ("summary.json", '{"name": ', "summary.json: not valid JSON"),
        ("config.json", "[]", "config.json: found a list"),
        ("events.jsonl", "{}\n{\n", "events.jsonl:2: not valid JSON"),
        ("maps.npz", "PK", "maps.npz: not a readable"),
        ("links.csv", b"\xff\n", "links.csv: not a text file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    written(tmp_path, "ab", [step(0, 1)])
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunFolderError, match=message):
        load(tmp_path)


def test_a_folder_without_the_columns_of_today_is_read_and_summed_up(tmp_path: Path) -> None:
    run = written(tmp_path, "ab", [step(rank, number) for number in (1, 2) for rank in range(2)])
    names = list(run.steps)
    later = {names.index(name) for name in ("density", "formula_bytes", "interface_bytes", "interface_packets")}
    lines = [line.split(",") for line in (tmp_path / "steps.csv").read_text().splitlines()]
    kept = (",".join(cell for place, cell in enumerate(line) if place not in later) for line in lines)
    (tmp_path / "steps.csv").write_text("".join(f"{line}\n" for line in kept))
    (tmp_path / "telemetry.csv").write_text("rank,node,host_s,cpu_percent,rss_bytes,threads\n0,a,1.5,97,1000,3\n")
    old = load(tmp_path)
    assert old.telemetry["rss_bytes"].tolist() == [1000]
    assert np.isnan(old.telemetry["total_w"]).all()
    assert old.telemetry["rails_w"].tolist() == [""]
    assert summarise(old)["energy_j"] is None
    assert np.isnan(old.steps["density"]).all()
    assert old.steps["bytes_sent"].tolist() == run.steps["bytes_sent"].tolist()
    assert summarise(run)["ledger"] != {}
    assert summarise(old)["ledger"] == {}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        load(tmp_path)
    with pytest.raises(RunFolderError, match="no such folder"):
        load(tmp_path / "nowhere")


def run_script(script: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    setup = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
    return subprocess.run(
        [*prefix, sys.executable, "-c", setup + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_killed_run_is_complete_up_to_its_last_step(tmp_path: Path) -> None:
    script = """
        import os, signal
        from pathlib import Path
        from test_results import new_folder, step
        folder = new_folder(Path(sys.argv[1]), "ab")
        for number in range(1, 51):
            folder.record(step(0, number))
            folder.record(step(1, number))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    outcome = run_script(script, str(tmp_path / "run"))
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    run = load(tmp_path / "run")
    assert run.of_node("b")["step"].tolist() == list(range(1, 51))
    assert run.of_link("b", "a")["step"].tolist() == list(range(1, 51))
    assert run.summary == {}
    assert run.nodes == ["a", "b"]


FULL_DISK = """
    from pathlib import Path
    from test_results import load, new_folder, step, summary_of
    from edgesim.results import RunFolderError
    path = Path(sys.argv[1]) / "run"
    folder = new_folder(path, "ab")
    number = 0
    try:
        while True:
            number += 1
            folder.record(step(0, number))
            folder.record(step(1, number))
    except RunFolderError as error:
        print(error)
    folder.close()
    run = load(path)
    recorded = run.of_node("a")["step"].tolist()
    assert recorded == list(range(1, len(recorded) + 1)) and len(recorded) >= number - 1 > 100
    (path / "logs").mkdir()
    try:
        folder.write_summary({**summary_of(run), "padding": "x" * 100_000})
    except RunFolderError as error:
        print(error)
    assert not (path / "summary.json").exists() and not list(path.glob(".*"))
"""


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    """On a file system of 256 KiB, mounted in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=256k tmpfs {tmp_path}"
    private = [unshare or "", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if not unshare or subprocess.run([*private, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted in a mount namespace here")
    shell = (*private, "sh", "-c", f'{mount} && exec "$@"', "sh")
    outcome = run_script(FULL_DISK, str(tmp_path), prefix=shell)
    assert outcome.returncode == 0, outcome.stderr
    rows, summary = outcome.stdout.splitlines()
    full = "cannot write: disk full (No space left on device); what was written before stays readable"
    assert rows in {f"{tmp_path}/run/{name}.csv: {full}" for name in ("steps", "links")}
    assert summary == f"{tmp_path}/run/summary.json: {full}"


def test_recording_400_steps_of_16_nodes_costs_less_than_a_second(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, NODES)
    events = [step(rank, number) for number in range(1, 401) for rank in range(16)]
    began = time.process_time()
    for event in events:
        folder.record(event)
    assert time.process_time() - began < 1.0
    folder.close()
    assert len(load(tmp_path).links["step"]) == 6400
