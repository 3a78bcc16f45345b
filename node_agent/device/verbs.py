"""The verbs `check` and `bench` of `node-agent`."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Literal

from node_agent.exits import FAILED, refuse


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
        return refuse(f"--out {out}: {error.strerror}")  # before all the measuring, not after it

    from node_agent.device.accelerator import AcceleratorError, accelerator
    from node_agent.device.bench import calibrate
    from node_agent.device.profile import as_yaml, profile

    try:
        device = accelerator(wanted)
    except AcceleratorError as error:
        return refuse(str(error))
    try:
        text = as_yaml(profile(calibrate(device, quick), device))
    except (OSError, RuntimeError) as error:  # what the system and torch raise, such as where memory runs out
        return refuse(f"bench: {(str(error).splitlines() or [type(error).__name__])[0]}", FAILED)
    if out is not None:
        try:
            _write(out, text)
            return 0
        except OSError as error:
            refuse(f"--out {out}: {error.strerror}; the profile goes to standard output instead")
    print(text, end="")
    return 0 if out is None else FAILED


def _writable(out: Path) -> None:
    """Raises OSError where there is no place for the file."""
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
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
