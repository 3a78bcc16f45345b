"""The daemon's API against its own description: schemathesis makes requests, good and bad ones, and checks the answers.

A daemon with real certificates listens on this host, a fleet's controller asks it. Every answer has to be one that the
description allows; none may be a 5xx. Ends with 1 where one was not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgesim.fleet.authority import Authority

PORT = 7473
EDGESIM = [sys.executable, "-c", "from edgesim.cli import main; main()"]
AGENT = [sys.executable, "-m", "node_agent"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--program", default="schemathesis", help="schemathesis's own command")
    parser.add_argument("--examples", type=int, default=150, help="cases an operation and phase, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write what was found into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = {**os.environ, "EDGESIM_FLEET": str(folder / "fleet")}
        configuration = folder / "agent.yaml"
        settings = {"name": "fuzzed", "listen": f"127.0.0.1:{PORT}", "interface": "lo", "data": str(folder / "agent")}
        configuration.write_text(json.dumps(settings))
        with (folder / "log").open("w") as log:
            daemon = subprocess.Popen([*AGENT, "serve", "--config", str(configuration)], stdout=log, stderr=log)
        try:
            _enroll(folder, configuration, environment)
            return _fuzz(options, folder, daemon)
        finally:
            daemon.terminate()
            daemon.wait(30)


def _enroll(folder: Path, configuration: Path, environment: dict[str, str]) -> None:
    subprocess.run([*EDGESIM, "fleet", "init"], check=True, env=environment, stdout=subprocess.DEVNULL)
    asked = subprocess.run(
        [*AGENT, "token", "--config", str(configuration)], check=True, capture_output=True, text=True
    )
    _wait_for(folder, "waits at")
    enroll = ["fleet", "enroll", f"127.0.0.1:{PORT}", "--name", "fuzzed", "--token", "-"]
    subprocess.run([*EDGESIM, *enroll], check=True, env=environment, input=asked.stdout, text=True)
    _wait_for(folder, "listens on")


def _wait_for(folder: Path, words: str) -> None:
    deadline = time.monotonic() + 60
    while words not in (folder / "log").read_text():
        if time.monotonic() > deadline:
            raise TimeoutError((folder / "log").read_text())
        time.sleep(0.1)


def _fuzz(options: argparse.Namespace, folder: Path, daemon: subprocess.Popen[bytes]) -> int:
    fleet, report = folder / "fleet", folder / "report.json"
    controller = Authority.open(fleet).controller()
    checks = ["--checks", "all", "--exclude-checks", "ignored_auth,positive_data_acceptance"]
    # Streams of events last as long as their jobs.
    parts = ["--phases", "coverage,fuzzing", "--exclude-path-regex", "/events$"]
    how = ["--max-examples", str(options.examples), "--seed", str(options.seed), "--workers", "2", "--no-shrink"]
    how += ["--continue-on-failure", "--request-timeout", "20"]
    tls = ["--tls-verify", str(controller.ca), "--request-cert", str(controller.certificate)]
    tls += ["--request-cert-key", str(controller.key)]
    told = ["--report", "json", "--report-json-path", str(report)]
    place = f"https://127.0.0.1:{PORT}/v1/openapi.json"
    command = [options.program, "run", place, *tls, *checks, *parts, *how, *told]
    code = subprocess.run(command, cwd=folder).returncode
    alive = daemon.poll() is None
    log = (folder / "log").read_text()
    print(f"daemon alive: {alive}; tracebacks in its log: {log.count('Traceback')}; schemathesis ended with {code}")
    if options.record:
        options.record.write_text(report.read_text())
    return 0 if code == 0 and alive and "Traceback" not in log else 1


if __name__ == "__main__":
    sys.exit(main())
