"""Provisioning, in a folder instead of a board: without accounts, and without a network."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "jetson" / "provision.sh"

pytestmark = pytest.mark.skipif(shutil.which("systemctl") is None, reason="no systemctl here")


def provision(*arguments: str | Path, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["/bin/sh", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )
    assert done.returncode == expected, done.stderr
    return done


def tree(root: Path) -> dict[str, tuple[str, int, float]]:
    """What is where, with which mode, and when it was last changed."""
    found = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(root))] = (content, stat.S_IMODE(state.st_mode), state.st_mtime)
    return found


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    provision("--root", tmp_path, "--no-install")
    first = tree(tmp_path)
    provision("--root", tmp_path, "--no-install")
    assert tree(tmp_path) == first
    unit = "etc/systemd/system/edgesim-agent.service"
    wanted = "etc/systemd/system/multi-user.target.wants/edgesim-agent.service"
    assert {unit, wanted, "etc/edgesim/agent.yaml"} <= first.keys()
    assert first[wanted][0] == f"/{unit}"
    assert first["etc/edgesim/agent.yaml"][1] == 0o644


def test_the_boards_own_configuration_stays_and_an_old_unit_goes(tmp_path: Path) -> None:
    provision("--root", tmp_path, "--no-install")
    configuration = tmp_path / "etc/edgesim/agent.yaml"
    unit = tmp_path / "etc/systemd/system/edgesim-agent.service"
    configuration.write_text("data: /elsewhere\n")
    unit.write_text("[Unit]\n")
    provision("--root", tmp_path, "--no-install")
    assert configuration.read_text() == "data: /elsewhere\n"
    assert unit.read_text() == (SCRIPT.parent / "edgesim-agent.service").read_text()
    assert [path.name for path in configuration.parent.iterdir()] == ["agent.yaml"]


def test_a_dry_run_changes_nothing_and_tells_all(tmp_path: Path) -> None:
    told = provision("--root", tmp_path, "--dry-run", "--wheel", wheel(tmp_path.parent)).stdout
    assert tree(tmp_path) == {}
    provision("--root", tmp_path, "--no-install")
    for part in ("-m venv --system-site-packages", "pip install", "agent.yaml", "enable edgesim-agent.service"):
        assert part in told


def wheel(folder: Path) -> Path:
    """A wheel that holds nothing but a command, in a folder with a space in its name."""
    path = folder / "some wheels" / "dummy-1.0-py3-none-any.whl"
    path.parent.mkdir(exist_ok=True)
    files = {
        "dummy.py": "def main():\n    print('here')\n",
        "dummy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: dummy\nVersion: 1.0\n",
        "dummy-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "dummy-1.0.dist-info/entry_points.txt": "[console_scripts]\nnode-agent = dummy:main\n",
    }
    rows = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
    files["dummy-1.0.dist-info/RECORD"] = "\n".join([*rows, "dummy-1.0.dist-info/RECORD,,", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def test_the_wheel_is_installed_and_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    # An environment that is there stays, and the pip of this Python serves it.
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", root / "opt/edgesim"], check=True
    )
    for _ in range(2):
        provision("--root", root, "--wheel", wheel(tmp_path))
        done = subprocess.run([root / "opt/edgesim/bin/node-agent"], capture_output=True, text=True, check=True)
        assert done.stdout == "here\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wheel"], "--wheel: found nothing, allowed a value"),
        (["--wheel", "/nonexistent.whl"], "--wheel: found /nonexistent.whl, allowed a file"),
        (["--root", "/nonexistent"], "--root: found /nonexistent, allowed a folder"),
        (["--dry-run"], "found no wheel, allowed --wheel FILE or --no-install"),
        (["--force"], "found --force, allowed the options above"),
    ],
)
def test_what_is_not_allowed_is_refused(arguments: list[str], message: str) -> None:
    assert provision(*arguments, expected=2).stderr.splitlines()[-1] == f"provision.sh: {message}"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
