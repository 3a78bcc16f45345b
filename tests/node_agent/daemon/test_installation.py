"""Wheels that are replaced under a daemon: no job of other versions than its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from agents import Board, a_job, in_thread, settings

from node_agent.daemon.installation import Installation


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes before all others, with what a wheel leaves there."""
    folder = tmp_path / "installed"
    put(folder, "edgesim", "1.0", "sha256=one")
    put(folder, "torch", "2.9.1", "sha256=one")
    monkeypatch.syspath_prepend(folder)
    return folder


def put(folder: Path, name: str, version: str, digest: str) -> None:
    for before in folder.glob(f"{name}-*.dist-info"):
        shutil.rmtree(before)
    beside = folder / f"{name}-{version}.dist-info"
    beside.mkdir(parents=True)
    (beside / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (beside / "RECORD").write_text(f"{name}/__init__.py,{digest},10\n")


@pytest.mark.parametrize(
    ("name", "version", "digest", "found"),
    [
        ("edgesim", "1.1", "sha256=two", "edgesim 1.0 when it began and 1.1 now"),
        ("edgesim", "1.0", "sha256=two", "another build of edgesim 1.0 than when it began"),
        ("torch", "2.10.0", "sha256=two", "torch 2.9.1 when it began and 2.10.0 now"),
    ],
)
def test_what_was_replaced_is_told(name: str, version: str, digest: str, found: str, installed: Path) -> None:
    installation = Installation()
    assert installation.changed() is None
    put(installed, name, version, digest)
    how = "restart it (systemctl restart edgesim-agent)"
    assert installation.changed() == f"agent: found {found}, allowed what it began with: {how}"


def test_the_same_wheel_again_is_no_change(installed: Path) -> None:
    installation = Installation()
    put(installed, "edgesim", "1.0", "sha256=one")
    assert installation.changed() is None


def test_neither_a_claim_nor_a_start_is_taken_after_it(installed: Path, tmp_path: Path) -> None:
    with in_thread(settings(tmp_path / "data")) as board:
        job = board.claim({"program": b"tell(event='finished')"})
        board.send(job, "program", b"tell(event='finished')")
        put(installed, "edgesim", "1.1", "sha256=two")
        assert _refused(board, f"/v1/jobs/{job}/start", {"kind": "run", "job": a_job("program")})
        assert board.get(f"/v1/jobs/{job}")["state"] == "ready"
        board.http.delete(f"/v1/jobs/{job}")
        assert _refused(board, "/v1/jobs", {"run": "test", "lease_s": 20.0, "files": []})
    with in_thread(settings(tmp_path / "data")) as board:
        board.claim({})


def _refused(board: Board, path: str, body: dict[str, object]) -> bool:
    answer = board.http.post(path, json=body)
    return answer.status_code == 409 and answer.json()["error"].startswith("agent: found edgesim 1.0 when it began and")
