"""The machine and the software that a run ran on, for its configuration."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "edgesim",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "spectral",
    "h5py",
    "pydantic",
    "pyroute2",
    "matplotlib",
)


def versions() -> dict[str, str | None]:
    """Versions of Python and of what the results depend on; nothing is imported for it."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def host() -> dict[str, Any]:
    load = os.getloadavg()
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": list(load),
    }


def revision() -> dict[str, Any] | None:
    """The git revision of the source tree, and whether it had changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
