from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgesim.cli import app
from edgesim.network import namespaces
from edgesim.network.plan import Kernel
from node_agent.compression.settings import CATALOGUE

Write = Callable[..., Path]
TOPOLOGIES = Path(__file__).resolve().parents[2] / "topologies"


def edgesim(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("file", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_topologies_are_valid_and_can_be_drawn(file: Path, tmp_path: Path) -> None:
    code, output, _ = edgesim("validate", file)
    assert code == 0
    assert "valid" in output
    code, output, _ = edgesim("show", file, "--png", tmp_path / "picture.png")
    assert code == 0
    nodes = json.loads(edgesim("show", file, "--json")[1])["ring"]
    assert all(node in output for node in nodes)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_a_bad_file_is_refused_with_file_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("nodes: [a, b]\ntraining:\n  stepz: 4\n")
    for verb in ("validate", "show", "run"):
        code, output, errors = edgesim(verb, file)
        assert code == 2
        assert f"{file}:3: training.stepz: found an unknown key" in errors
        assert "did you mean 'steps'?" in errors
        assert not output


def test_links_that_this_kernel_cannot_impose_are_refused_before_a_run(
    write_topology: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 Gbit/s with a delay take netem: this machine is asked for it where nothing else would do."""
    file = write_topology(2, links="{rate: 2 Gbit/s, delay: 2 ms}")
    netns = ("--links", "netns", "--set", "emulation.clock=wall")
    monkeypatch.setattr(namespaces, "probe", Kernel)
    code, _, errors = edgesim("validate", file, *netns)
    assert code == 2
    assert f"{file}:1: links.0: found n0->n1: 2 Gbit/s, allowed at most 500 Mbit/s through the relay" in errors
    assert edgesim("validate", file)[0] == 0
    monkeypatch.setattr(namespaces, "probe", lambda: Kernel(netem=True))
    assert edgesim("validate", file, *netns)[0] == 0


def test_no_kernel_imposes_links_on_a_virtual_clock(write_topology: Write) -> None:
    file = write_topology(2)
    code, _, errors = edgesim("run", file, "--links", "netns")
    assert code == 2
    assert f"{file}:5: emulation.clock: found virtual with links: netns, allowed wall" in errors


def test_options_are_refused_in_the_words_that_were_typed(write_topology: Write) -> None:
    for typed, expected in (
        (("--compressor", "gccc"), "--compressor gccc: training.compressor: found 'gccc'"),
        (("--seed", "-1"), "--seed -1: seed: found -1"),
        (("--clock", "sun"), "--clock sun: emulation.clock: found 'sun'"),
        (("--set", "training.stepz=3"), "--set training.stepz=3: training.stepz: found an unknown key"),
    ):
        code, _, errors = edgesim("run", write_topology(2), *typed)
        assert code == 2
        assert errors.startswith(expected)
        assert len(errors.splitlines()) == 1


def test_a_setting_of_the_compressor_that_an_option_names_is_kept(write_topology: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--compressor", "gcc", "--set", "training.compressor.density=0.25", "--set", "training.steps=1")
    code, _, errors = edgesim("run", write_topology(1), *options, "--out", out, "--no-figures")
    assert code == 0, errors
    assert json.loads((out / "summary.json").read_text())["compressor"]["density"] == 0.25


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("scene: /no/such/scene.mat", "/no/such/scene.mat: no such file"),
        ("target: corn-nothing", "target: found 'corn-nothing'"),
        ("mask: nope", "mask: found 'nope'"),
    ],
)
def test_what_is_wrong_with_a_scene_is_said_at_its_place(line: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "scene.yaml"
    scene = "" if line.startswith("scene") else "  scene: indian-pines\n"
    file.write_text(f"nodes: [a]\ntraining:\n{scene}  {line}\n")
    for verb in ("validate", "run"):
        code, output, errors = edgesim(verb, file)
        assert code == 2
        assert errors.startswith(f"{file}:3: training.scene: ")
        assert expected in errors
        assert len(errors.splitlines()) == 1
        assert not output
    code, output, _ = edgesim("validate", file, "--json")
    assert code == 2
    found = json.loads(output)
    assert found["valid"] is False
    assert expected in found["problems"][0]


def test_a_mask_that_shows_nothing_but_targets_is_refused(write_topology: Write, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", data=np.random.default_rng(0).random((8, 9, 12)), map=np.ones((8, 9)))
    code, _, errors = edgesim("run", write_topology(2), "--set", f"training.scene={tmp_path / 'all.npz'}")
    assert code == 2
    assert "found 62 targets among the 62 pixels to be scored, allowed both" in errors


def test_a_taken_folder_is_refused_before_anything_is_said(write_topology: Write, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "steps.csv").write_text("mine")
    (tmp_path / "file").write_text("")
    for out, expected in (
        ("taken", "already holds a run"),
        ("file/run", "cannot create the run folder: Not a directory"),
        ("file", "cannot create the run folder: File exists"),
    ):
        code, output, errors = edgesim("run", write_topology(1), "--out", tmp_path / out)
        assert code == 2
        assert expected in errors
        assert len(errors.splitlines()) == 1
        assert not output


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"edgesim \d+\.\d+\.\d+\n", edgesim("--version")[1])


@pytest.mark.parametrize("size", [0, 10, 1000, -10])
def test_a_scene_that_is_cut_short_is_refused_before_anything_starts(
    size: int, write_topology: Write, scene: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "cut.npz"
    damaged.write_bytes(scene.read_bytes()[:size])
    code, _, errors = edgesim(
        "run", write_topology(2), "--set", f"training.scene={damaged}", "--out", tmp_path / "never"
    )
    assert code == 2
    assert "cut.npz" in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "never").exists()


def test_more_nodes_than_lines_are_refused(write_topology: Write, tmp_path: Path) -> None:
    code, _, errors = edgesim("run", write_topology(25), "--out", tmp_path / "never")
    assert code == 2
    assert "found 24 lines, allowed at least one for each of the 25 nodes" in errors


def test_a_folder_without_a_run_cannot_be_compared(tmp_path: Path) -> None:
    code, _, errors = edgesim("compare", tmp_path)
    assert code == 2
    assert str(tmp_path) in errors


def test_presets_are_listed_with_both_directions_and_source() -> None:
    code, output, _ = edgesim("presets")
    assert code == 0
    entries = {entry["name"]: entry for entry in json.loads(edgesim("presets", "--json")[1])}
    assert len(entries) >= 10
    for name, entry in entries.items():
        assert name in output
        assert entry["source"].split()[0] in output
    sband = entries["leo-sband"]
    assert (sband["forward"]["rate"], sband["reverse"]["rate"]) == ("2 Mbit/s", "128 kbit/s")
    assert sband["unverified"] == ["reverse.rate"]
    assert "128 kbit/s *" in output


def test_show_lists_changes_and_events() -> None:
    _, output, _ = edgesim("show", TOPOLOGIES / "degraded-3.yaml")
    assert "at 10 s" in output
    assert re.search(r"20 s +degrade +sat-0 → sat-1 +for 10 s +rate 2 Mbit/s, loss 10 %", output)
    assert re.search(r"55 s +pause +sat-1 +for 8 s", output)


def test_compressors_are_listed_with_settings_and_source() -> None:
    code, output, _ = edgesim("compressors")
    assert code == 0
    assert all(re.search(rf"^{name} ", output, re.MULTILINE) for name in CATALOGUE)
    code, output, _ = edgesim("compressors", "gcc", "size-adaptive")
    assert code == 0
    assert "selector" in output
    assert "threshold" in output
    assert "topk" not in output
    entries = {entry["name"]: entry for entry in json.loads(edgesim("compressors", "--json")[1])}
    assert entries["nsi"]["reduction"] == "private"
    assert entries["gcc"]["settings"]["density"]["default"] == 0.5
    assert "TNNLS" in entries["gcc"]["source"]
    assert [entry["name"] for entry in json.loads(edgesim("compressors", "nsi", "--json")[1])] == ["nsi"]


def test_a_compressor_that_is_not_known_is_refused() -> None:
    code, _, errors = edgesim("compressors", "tokp")
    assert code == 2
    assert errors.startswith("compressor: found 'tokp', allowed none, fp16, bf16, topk,")
    assert errors.endswith("did you mean 'topk'?\n")


def test_schema_describes_every_section() -> None:
    code, output, _ = edgesim("schema")
    assert code == 0
    assert {"nodes", "links", "ring", "emulation", "training"} <= set(json.loads(output)["properties"])


def test_doctor_finds_what_a_run_needs() -> None:
    code, output, _ = edgesim("doctor", "--json")
    assert code == 0
    findings = {finding["subject"]: finding for finding in json.loads(output)}
    assert findings["torch.distributed"]["status"] == "ok"
    assert "gloo yes" in findings["torch.distributed"]["detail"]
    assert findings["loopback"]["status"] == "ok"
    possible = "rate by the kernel" in findings["links: netns"]["detail"]
    assert findings["links: netns"]["status"] == ("ok" if possible else "absent")
    assert "imposed in user space" in edgesim("doctor")[1]


def test_doctor_fails_where_no_run_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_gloo_available", lambda: False)
    code, output, _ = edgesim("doctor")
    assert code == 1
    assert "no run is possible here: torch.distributed" in output


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from edgesim.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'matplotlib', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
