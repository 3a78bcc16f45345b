"""The verbs `check` and `bench` of `node-agent`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Literal

FAILED, BAD_INPUT = 1, 2


def check(as_json: bool) -> int:
    """Print what this board can do; 0 if a job can run here."""
    from node_agent.device import check

    findings = check.examine()
    print(check.as_json(findings) if as_json else check.as_text(findings))
    return FAILED if check.missing(findings) else 0


def bench(out: Path | None, quick: bool, wanted: Literal["auto", "cpu", "cuda"]) -> int:
    """Calibrate a device profile, and write it to a file (None: to standard output)."""
    try:
        if out is not None:
            _writable(out)
    except OSError as error:
        return _refuse(f"--out {out}: {error.strerror}")

    from node_agent.device.accelerator import AcceleratorError, accelerator
    from node_agent.device.bench import calibrate
    from node_agent.device.profile import as_yaml, profile

    try:
        device = accelerator(wanted)
        text = as_yaml(profile(calibrate(device, quick), device))
        if out is None:
            print(text, end="")
        else:
            _write(out, text)
    except AcceleratorError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"--out {out}: {error.strerror}")
    return 0


def _writable(out: Path) -> None:
    """Raises OSError where there is no place for the file: before all the measuring, not after it."""
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}-"):
        pass


def _write(out: Path, text: str) -> None:
    """All of it or nothing."""
    with tempfile.NamedTemporaryFile(
        "w", dir=out.parent, prefix=f".{out.name}-", encoding="utf-8", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, out)
        except OSError:
            os.unlink(file.name)
            raise


def _refuse(message: str) -> int:
    print(f"node-agent: {message}", file=sys.stderr)
    return BAD_INPUT
