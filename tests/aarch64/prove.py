"""The agent on ARM: its tests under an emulated aarch64 processor, and a ring of that kind and of x86-64.

Makes a Debian root in build/aarch64, or in the folder that EDGESIM_AARCH64 names, and keeps it. Needs the rights of
root; says what else is missing. Writes results/reference/aarch64.txt. Exits 1 if something failed and 2 if something
is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import ring
import suite
from root import SUITE, Root, RootError, missing

PROJECT = Path(__file__).resolve().parents[2]
RESULT = PROJECT / "results" / "reference" / "aarch64.txt"
TORCH = "2.10.0"
"""the latest whose wheel for aarch64 on the package index is for CPUs alone"""

FAILED, MISSING, INTERRUPTED = 1, 2, 130

VERSIONS = """
import platform, numpy, torch, torch.distributed
print("python", platform.python_version(), "numpy", numpy.__version__, "torch", torch.__version__,
      "gloo" if torch.distributed.is_gloo_available() else "no gloo", platform.machine())
"""

DAEMON = "fastapi uvicorn cryptography.x509 httpx prometheus_client psutil pydantic"
"""what `node-agent serve` imports"""


class Report:
    """What is printed, and written at last."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=TORCH, help="version for aarch64")
    parser.add_argument("--only", choices=("ring", "tests"), help="the other part is left out, and nothing written")
    options = parser.parse_args()
    if lacks := missing():
        print("test-aarch64 needs:\n  " + "\n  ".join(lacks), file=sys.stderr)
        return MISSING
    folder = Path(os.environ.get("EDGESIM_AARCH64", PROJECT / "build" / "aarch64")).resolve()
    report, began = Report(), time.monotonic()
    try:
        root = Root(folder, PROJECT, requirements(options.torch))
    except RootError as error:
        print(f"test-aarch64: {error}", file=sys.stderr)
        return FAILED
    report(f"Debian {SUITE} arm64, emulated by {emulator()}; made or found in {time.monotonic() - began:.0f} s")
    good = True
    for title, command in (
        ("there", root.command("python3", "-c", VERSIONS)),
        ("here", [sys.executable, "-c", VERSIONS]),
        ("imported there, for the daemon", root.command("python3", "-c", imports())),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        good = good and done.returncode == 0
        report(f"{title}: {done.stdout.strip() or 'FAILED: ' + ' '.join(done.stderr.splitlines()[-1:])}")
    if options.only != "tests":
        good = rings(root, report) and good
    if options.only != "ring":
        good = tests(root, folder, report) and good
    if options.only is None:
        RESULT.write_text("\n".join(report.lines) + "\n")
    return 0 if good else FAILED


def requirements(torch: str) -> list[str]:
    """The pinned packages, but for torch."""
    pinned = [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if re.match(r"[a-z]", line)]
    return [f"torch=={torch}" if line.startswith("torch==") else line for line in pinned]


def emulator() -> str:
    found = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()[0] if found.stdout else "an unknown emulator"


def imports() -> str:
    return f"import {', '.join(DAEMON.split())}; print('{DAEMON}')"


def rings(root: Root, report: Report) -> bool:
    report()
    report("a ring of one aarch64 and one x86-64 node")
    good = True
    for number, compressor in enumerate(ring.COMPRESSORS):
        first = ("x86-64", "aarch64")[number % 2]
        with tempfile.TemporaryDirectory() as folder:
            found = ring.run(root, PROJECT, Path(folder), compressor, first)
        good = good and found.agreed
        verdict = "identical" if found.agreed else f"DIFFERENT since step {found.parted}"
        report(
            f"  {compressor:9} rank 0 on {first:7}  {found.steps} steps  loss {found.loss:.4f}  {found.wall_s:4.0f} s  "
            f"parameters {verdict}"
        )
        for line in (*dict.fromkeys(found.digests), *found.faults):
            report(f"            {line}")
    return good


def tests(root: Root, folder: Path, report: Report) -> bool:
    report()
    report("tests/node_agent there, but for those marked alone, which compare speeds by the clock, and")
    for name, reason in suite.LEFT_OUT.items():
        report(f"  {name}: {reason}")
    outcome = suite.run(root, folder / "tests.log")
    for line in (*outcome.failed, outcome.summary):
        report(f"  {line}")
    return outcome.passed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
