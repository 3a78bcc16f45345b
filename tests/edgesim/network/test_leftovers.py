"""What a killed command leaves in the folder for temporary files."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import PATIENCE, command


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty folder whose name leaves room for those of sockets in it, 107 bytes in all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_temporary_folders_of_a_killed_command_are_removed_when_it_is_cleaned_up_after(
    temporary: Path, tmp_path: Path
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("nodes: [a, b]\ndefaults: {link: {rate: 1 Mbit/s}}\n")
    environment = {**os.environ, "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(tmp_path)}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "torch")  # one that all processes of a user share

    def of_nodes() -> list[Path]:
        return list(temporary.glob("edgesim-*/*.log"))

    measuring = subprocess.Popen(command("links", file, "--samples", "1000"), env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while not of_nodes():
        assert time.monotonic() < deadline
        assert measuring.poll() is None
        time.sleep(0.02)
    measuring.kill()
    measuring.communicate(timeout=PATIENCE)
    assert sorted(path.name.partition("-")[0] for path in temporary.iterdir()) == ["edgesim", "pymp"]
    cleaned = subprocess.run(command("clean"), env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert cleaned.returncode == 0, cleaned.stderr
    assert cleaned.stdout.startswith(f"links-{measuring.pid}: removed")
    assert list(temporary.iterdir()) == []
    assert not list((tmp_path / f"edgesim-{os.geteuid()}").iterdir())
