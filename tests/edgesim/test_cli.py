from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgesim.cli import app
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


def test_netns_links_are_refused_and_not_approximated(write_topology: Write) -> None:
    code, _, errors = edgesim("run", write_topology(2), "--links", "netns")
    assert code == 2
    assert "--set emulation.links" in errors
    assert "allowed userspace" in errors


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


def test_compressors_are_listed_with_settings_and_source() -> None:
    code, output, _ = edgesim("compressors")
    assert code == 0
    assert all(re.search(rf"^{name} ", output, re.MULTILINE) for name in CATALOGUE)
    entries = {entry["name"]: entry for entry in json.loads(edgesim("compressors", "--json")[1])}
    assert entries["nsi"]["reduction"] == "private"
    assert entries["gcc"]["settings"]["density"]["default"] == 0.5
    assert "TNNLS" in entries["gcc"]["source"]


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
    assert "imposed in user space" in edgesim("doctor")[1]


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from edgesim.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'matplotlib', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
