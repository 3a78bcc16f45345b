"""What a command leaves in the folder for temporary files, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from running import PATIENCE, command


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_command_leaves_no_temporary_folder(number: signal.Signals, tmp_path: Path) -> None:
    """Of a killed one they go when it is cleaned up after."""
    temporary, file = tmp_path / "temporary", tmp_path / "two.yaml"
    temporary.mkdir()
    file.write_text("nodes: [a, b]\ndefaults: {link: {rate: 1 Mbit/s}}\n")
    environment = {**os.environ, "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(tmp_path)}

    def of_nodes() -> list[Path]:
        return list(temporary.glob("edgesim-*/*.log"))

    measuring = subprocess.Popen(command("links", file, "--samples", "1000"), env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while not of_nodes():
        assert time.monotonic() < deadline
        assert measuring.poll() is None
        time.sleep(0.02)
    measuring.send_signal(number)
    measuring.communicate(timeout=PATIENCE)
    left = sorted(path.name.partition("-")[0] for path in temporary.iterdir())
    assert left == (["edgesim", "pymp"] if number == signal.SIGKILL else [])
    cleaned = subprocess.run(command("clean"), env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert cleaned.returncode == 0, cleaned.stderr
    assert ("removed" in cleaned.stdout) == bool(left)
    assert list(temporary.iterdir()) == []
    assert not list((tmp_path / f"edgesim-{os.geteuid()}").iterdir())
