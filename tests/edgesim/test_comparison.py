"""Tables of runs beside one another."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgesim.comparison import CONTROLS, compressor_label, differences, labels, render, table, to_json
from edgesim.results import Run, RunFolder, load
from node_agent.compression.settings import CATALOGUE, GCCSettings, NoneSettings, NSISettings
from node_agent.events import Received, Sent, Started, Step, StepParts

METRICS = {
    "auc": 0.9987,
    "auc_residual": 0.9876,
    "auc_rx": 0.93,
    "auc_ace": 0.98,
    "auc_cem": 0.97,
    "auc_brightness": 0.6,
}


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    folder = RunFolder.create(tmp_path / "leo-ring-4-20310203-040506")
    folder.write_config({"name": "leo-ring-4", "nodes": ["a", "b"], "links": []})
    folder.close()
    return load(folder.path)


def summed(run: Run, folder: str = "", topology: dict[str, Any] | None = None, **changes: Any) -> Run:
    summary = {
        "status": "finished",
        "name": "leo-ring-4",
        "seed": 7,
        "clock": "wall",
        "links_imposed": "userspace",
        "compressor": GCCSettings().model_dump(),
        "steps": 400,
        "time_s": 62.5,
        "time_to_target_s": 12.25,
        "metrics": METRICS,
        "bytes_sent": {"a": 3_000_000, "b": 1_000_000},
        "ratio_wire": 1.96,
        "ratio_values": 2.0,
        "step_time_s": {"p50": 0.1562},
        "nodes_agree": True,
    }
    config = {**run.config, "topology": topology} if topology else run.config
    return replace(run, path=run.path.with_name(folder or run.path.name), config=config, summary={**summary, **changes})


def text_of(runs: list[Run], width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(render(runs))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (NoneSettings(), "none"),
        (GCCSettings(density=0.5), "gcc density=0.5"),
        (GCCSettings(density=0.25, error_feedback=False), "gcc density=0.25 error_feedback=False"),
        (NSISettings(density=0.02, neighbourhood=5), "nsi density=0.02 neighbourhood=5"),
    ],
)
def test_a_label_names_what_is_not_default(settings: Any, label: str) -> None:
    dumped = settings.model_dump()
    assert compressor_label(dumped) == label


def test_a_label_of_a_compressor_unknown_here_shows_everything() -> None:
    assert "sketch" not in CATALOGUE
    assert compressor_label({"name": "sketch", "rows": 5, "decay": 1.0}) == "sketch rows=5 decay=1"


def test_labels_tell_runs_apart(empty: Run) -> None:
    gcc, other = summed(empty), summed(empty, compressor={"name": "none"})
    assert labels([gcc, other]) == ["gcc density=0.5", "none"]
    assert labels([gcc, summed(empty, seed=8)]) == ["gcc density=0.5, seed 7", "gcc density=0.5, seed 8"]
    assert labels([summed(empty, "first"), summed(empty, "second")]) == [
        "gcc density=0.5, first",
        "gcc density=0.5, second",
    ]


def test_rows_are_si(empty: Run) -> None:
    assert table([summed(empty)]) == [
        {
            "run": "leo-ring-4-20310203-040506",
            "name": "leo-ring-4",
            "status": "finished",
            "steps": 400,
            "compressor": "gcc density=0.5",
            "auc": 0.9987,
            "auc_residual": 0.9876,
            "bytes_per_node": 2_000_000,
            "ratio_wire": 1.96,
            "ratio_values": 2.0,
            "time_s": 62.5,
            "time_to_target_s": 12.25,
            "energy_per_node_j": None,
            "energy_source": None,
            "step_p50_s": 0.1562,
            "nodes_agree": True,
            "mended": None,
        }
    ]


def test_the_table_fits_100_columns_and_cuts_nothing(empty: Run) -> None:
    largest = summed(
        empty,
        "leo-ring-4-20310203-040506-12",
        compressor={**NSISettings().model_dump(), "layer_rule": "uniform", "warmup_steps": 200},
        bytes_sent={"a": 98_765_432_100, "b": 98_765_432_100},
        time_s=987_654.3,
        time_to_target_s=123_456.7,
        step_time_s={"p50": 98.7654},
        ratio_wire=1234.56,
        ratio_values=1234.56,
    )
    text = text_of([summed(empty, compressor={"name": "none"}), largest])
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for value in ("0.9987", "98,765", "1,235 ×", "987,654 s", "123,457 s", "98,765 ms"):
        assert value in text
    assert "warmup_steps=200" in text


def test_a_row_reads_as_expected(empty: Run) -> None:
    line = next(line for line in text_of([summed(empty)]).splitlines() if line.startswith("gcc"))
    assert line.split() == [
        *("gcc", "density=0.5", "0.9987", "0.9876", "2.00", "1.96", "×", "2.00", "×"),
        *("62.50", "s", "12.25", "s", "156.2", "ms", "yes"),
    ]


def test_runs_that_failed_or_were_killed_stand_in_the_table(empty: Run) -> None:
    failed = summed(empty, "failed-run", status="failed", nodes_agree=False, metrics={}, ratio_wire=None)
    text = text_of([failed, empty])
    assert "gcc density=0.5  failed" in text
    assert "after 400 steps" in text
    assert "NO" in text
    killed = next(line for line in text.splitlines() if "killed" in line)
    assert killed.split() == [
        "–",
        "killed",
        "after",
        "0",
        "steps",
        "–",
        "–",
        "0.00",
        *["–"] * 2,
        "0.00",
        "s",
        *["–"] * 3,
    ]
    assert table([empty])[0]["auc"] is None
    known = replace(empty, config={**empty.config, "compressor": {"name": "topk", "density": 0.01}})
    assert "topk density=0.01  killed" in text_of([known])


def test_what_a_killed_run_left_is_summed_up(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "killed")
    topology = {"seed": 5, "emulation": {"links": "userspace"}, "training": {"workload": "background"}}
    folder.write_config({"nodes": ["a"], "links": [], "compressor": {"name": "fp16"}, "topology": topology})
    parts = StepParts(0.5, 0.0, 0.0, 0.0, 0.0)
    folder.record(Started(0, "a", 1, {"parameters": 50}, Sent(), 0.0, 200))
    for number in (1, 2, 3):
        sent = Sent(1, 90, 10)
        folder.record(Step(0, "a", number, 0.5 * number, 0.5, 0.1, parts, sent, Received(), 25, 7, 100))
    folder.record_evaluation(0, 0.0, {"auc": 0.75})
    before = table([load(folder.path)])[0]
    assert (before["status"], before["steps"], before["compressor"]) == ("killed", 3, "fp16")
    assert (before["auc"], before["bytes_per_node"], before["time_s"], before["step_p50_s"]) == (None, 300, 1.5, 0.5)
    assert (before["ratio_wire"], before["ratio_values"]) == (2.0, 2.0)
    folder.record_evaluation(2, 1.0, {"auc": 0.875})
    folder.close()
    assert table([load(folder.path)])[0]["auc"] == 0.875


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_narrow_terminal_cuts_nothing(empty: Run, width: int) -> None:
    text = text_of([summed(empty), summed(empty, compressor={"name": "none"}, time_s=1_742_848.0)], width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    unfolded = "".join(text.split())
    for value in ("gccdensity=0.5", "0.9987", "1,742,848s", "156.2ms", "1.96×", "Agree"):
        assert value in unfolded


def test_what_the_links_carried_is_said_where_the_kernel_counted_it(empty: Run) -> None:
    by_node = {"formula_bytes": 2000, "encoded_bytes": 2000}
    carried = {"interface_bytes": 2210, "header_bytes": 132, "transport_bytes": 68, "carried_bytes": 2010}
    by_kernel = {**by_node, **carried, "passing_bytes": 0, "carried_ratio": 1.005}
    runs = [
        summed(empty, compressor={"name": name}, ledger={"a->b": entry, "b->a": entry})
        for name, entry in (("none", by_node), ("topk", by_kernel))
    ]
    said = [line for line in text_of(runs).splitlines() if "carried" in line]
    assert said == ["topk: links carried 1.0050 × the bytes sent, and 10.0 % of headers"]


def test_energy_is_shown_where_it_is_known_of_every_node_with_its_source(empty: Run) -> None:
    source = "measured: VDD_IN by ina3221 hwmon"
    known = {"energy_j": {"a": 20.0, "b": 30.0}, "energy_source": {"a": source, "b": source}}
    partly = {"energy_j": {"a": 20.0, "b": None}, "energy_source": {"a": source, "b": None}}
    runs = [summed(empty, compressor={"name": "none"}, **known), summed(empty, compressor={"name": "topk"}, **partly)]
    lines = text_of(runs, 140).splitlines()
    place = lines[0].index("J/node")
    shown = {line.split()[0]: line[place : place + 6].strip() for line in lines if line.startswith(("none ", "topk "))}
    assert shown == {"none": "25.00", "topk": "–"}
    assert [line for line in lines if source in line] == [f"none: energy {source}"]


def test_what_was_mended_in_a_scene_is_said_once(empty: Run) -> None:
    mended = {"bands_dropped": [3, 7], "non_finite": 1200, "negative": 0, "empty_pixels": 1}
    runs = [summed(empty, compressor={"name": name}, mended=mended, scene="dirty: 9 × 9") for name in ("none", "gcc")]
    line = (
        "dirty: 2 bands without information left out, 1,200 missing values interpolated, "
        "1 empty pixels left out of training"
    )
    assert text_of(runs, 140).count(line) == 1


def test_controls_that_runs_share_are_said_once(empty: Run) -> None:
    dense = summed(empty, compressor={"name": "none"})
    lines = text_of([summed(empty), dense]).splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("Controls"))
    assert lines[heading].split() == ["Controls", "(AUC)", "RX", "ACE", "CEM", "brightness"]
    assert lines[heading + 1].split() == ["of", "every", "run", "0.9300", "0.9800", "0.9700", "0.6000"]
    assert len(lines) == heading + 2


def test_controls_that_differ_are_said_of_each_run(empty: Run) -> None:
    other = summed(empty, compressor={"name": "none"}, metrics={**METRICS, "auc_rx": 0.5, "auc_untrained": 0.8})
    text = text_of([summed(empty), other])
    rows = [line.split() for line in text[text.index("Controls") :].splitlines()[1:3]]
    assert rows == [
        ["gcc", "density=0.5", "0.9300", "0.9800", "0.9700", "0.6000", "–"],
        ["none", "0.5000", "0.9800", "0.9700", "0.6000", "0.8000"],
    ]


def test_everything_but_the_compressor_in_which_runs_differ_is_said(empty: Run) -> None:
    def topology(**changes: Any) -> dict[str, Any]:
        training = {"scene": "indian-pines", "steps": 400, "compressor": {"name": "none"}, **changes}
        return {"seed": 7, "training": training, "links": [{"rate": 1e7}, {"rate": changes.get("steps", 1e7)}]}

    one = summed(empty, topology=topology())
    assert differences([one, summed(empty, topology=topology(compressor={"name": "gcc"}))]) == {}
    other = summed(empty, "other", topology=topology(scene="sandiego", steps=5, batch=64))
    assert differences([one, other]) == {
        "training.scene": ["indian-pines", "sandiego"],
        "training.steps": [400, 5],
        "training.batch": [None, 64],
        "links.1.rate": [1e7, 5],
    }
    text = text_of([one, other])
    assert "The runs also differ in" in text
    assert any(line.split() == ["training.scene", "indian-pines", "sandiego"] for line in text.splitlines())


def test_runs_without_a_recorded_topology_are_told_apart_by_their_summaries(empty: Run) -> None:
    assert differences([summed(empty), summed(empty, seed=8, clock="virtual")]) == {
        "seed": [7, 8],
        "clock": ["wall", "virtual"],
    }


def test_many_differences_are_cut_with_a_count(empty: Run) -> None:
    runs = [summed(empty, topology={f"key{i}": i * factor for i in range(20)}) for factor in (1, -1)]
    assert len(differences(runs)) == 19
    text = text_of(runs)
    assert "and 7 more settings" in text
    assert "key12" in text
    assert "key13" not in text


def test_json_is_strict_and_complete(empty: Run) -> None:
    read = json.loads(to_json([summed(empty), empty]))
    assert [row["auc"] for row in read["runs"]] == [0.9987, None]
    assert read["controls"][0] == {name: value for name, value in METRICS.items() if name in CONTROLS}
    assert read["differences"]["seed"] == [7, None]
