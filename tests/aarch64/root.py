"""A Debian root for arm64 with the project's dependencies in it, and programs run there under an emulated processor.

Mounts are made in a mount namespace of the program's own: they go when it ends, however it ends.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
PYTHON = "3.11"
"""of that suite"""
BINFMT = Path("/proc/sys/fs/binfmt_misc")
MAGIC = "7f454c460201010000000000000000000200b700"
"""how a program for aarch64 begins: ELF, 64 bit, little-endian, executable, machine 183"""

GLIBC = 36
"""minor version of that suite's C library: wheels for this one and those before it"""

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/project:/packages",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

ENTER = """set -e
mount --bind -o ro "$2" "$1/packages"
mount --bind -o ro "$3" "$1/project"
mount -t proc proc "$1/proc"
mount --rbind -o ro /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
if [ -n "$4" ]; then mkdir "$1/tmp/shared" && mount --bind "$4" "$1/tmp/shared"; fi
root=$1
shift 4
exec chroot "$root" "$@"
"""


class RootError(RuntimeError):
    """The root could not be made. One message, for people."""


def missing() -> list[str]:
    """What this machine lacks, each with what helps."""
    lacks = []
    if platform.machine() != "x86_64":
        lacks.append(f"an x86-64 processor: this one is {platform.machine()}, and would emulate nothing")
    if os.geteuid() != 0:
        lacks.append("the rights of root, to make a Debian root and to change into it")
    for program, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("chroot", "coreutils")):
        if shutil.which(program) is None:
            lacks.append(f"{program}: apt-get install {package}")
    if not (BINFMT / "register").exists():
        lacks.append(f"binfmt_misc: mount -t binfmt_misc binfmt_misc {BINFMT}")
    elif not _emulated():
        lacks.append(
            "an emulator of aarch64 that the kernel knows by a fixed file (flag F): apt-get install qemu-user-static "
            "binfmt-support; update-binfmts --enable qemu-aarch64"
        )
    return lacks


def _emulated() -> bool:
    for entry in BINFMT.iterdir():
        if entry.name not in ("register", "status"):
            lines = entry.read_text().splitlines()
            facts = dict(line.split(maxsplit=1) for line in lines if " " in line)
            if lines[0] == "enabled" and facts.get("magic") == MAGIC and "F" in facts.get("flags:", ""):
                return True
    return False


class Root:
    """The root in `folder`, made there unless a finished one is."""

    def __init__(self, folder: Path, project: Path, requirements: Sequence[str]) -> None:
        """`requirements`: all packages as name==version; none is looked for that they depend on.

        Raises RootError.
        """
        self._root, self._packages, self._project = folder / "root", folder / "packages", project
        folder.mkdir(parents=True, exist_ok=True)
        if not self._root.exists():
            _debootstrap(self._root, folder / "debootstrap.log")
        listed = self._packages / "requirements.txt"
        wanted = "\n".join(requirements)
        if not listed.exists() or listed.read_text() != wanted:
            _install(self._packages, requirements, folder / "pip.log")
            listed.write_text(wanted)

    def command(self, *program: str, shared: Path | None = None) -> list[str]:
        """The command that runs a program in the root, with this one's network. It finds the project in /project, its
        packages on Python's path, and `shared` in /tmp/shared; of what it writes elsewhere in /tmp nothing stays."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return [
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"),
            *("sh", "-c", ENTER, "enter", str(self._root), str(self._packages), str(self._project), str(shared or "")),
            *("/usr/bin/env", "-i", *variables, *program),
        ]


def _debootstrap(root: Path, log: Path) -> None:
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    arguments = ["--arch=arm64", "--variant=minbase", "--include=python3", SUITE, str(partial), *_mirror()]
    _run(["unshare", "--mount", "--propagation", "private", "--", "debootstrap", *arguments], log)
    for name in ("packages", "project"):
        (partial / name).mkdir()
    partial.rename(root)


def _mirror() -> list[str]:
    """Where this machine gets the suite from, if it is a Debian that does; else debootstrap's own default counts."""
    if shutil.which("apt-get") is None:
        return []
    listing = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"]
    found = subprocess.run(listing, capture_output=True, text=True, check=False)
    return found.stdout.split()[:1]


def _install(packages: Path, requirements: Sequence[str], log: Path) -> None:
    """The wheels for aarch64, fetched and unpacked by this machine's own pip, as it is configured."""
    shutil.rmtree(packages, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC + 1)]
    _run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"),
            *(f"--python-version={PYTHON}", "--implementation=cp", *platforms, "--platform=manylinux2014_aarch64"),
            *(f"--target={packages}", *requirements),
        ],
        log,
    )


def _run(command: Sequence[str], log: Path) -> None:
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        tail = log.read_text(errors="replace").splitlines()[-5:]
        raise RootError("\n  ".join([f"{' '.join(command[:6])} … ended with {code}; {log} says at last:", *tail]))
