"""The daemon's API against its own description: schemathesis makes requests, good and bad ones, and checks the answers.

A daemon with real certificates listens on this host, a fleet's controller asks it. Every answer has to be one that the
description allows; none may be a 5xx. Ends with 1 where one was not, or where too few requests were made to tell.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgesim.fleet.authority import Authority

LEAST = 2000
"""requests that have to be made"""

SERVER_ERROR = "ServerError"
"""what schemathesis's report calls an answer of 500 or more"""

EDGESIM = [sys.executable, "-c", "from edgesim.cli import main; main()"]
AGENT = [sys.executable, "-m", "node_agent"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--program", default="schemathesis", help="schemathesis's own command")
    parser.add_argument("--examples", type=int, default=20, help="cases an operation and phase, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write what was found into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = {**os.environ, "EDGESIM_FLEET": str(folder / "fleet")}
        configuration = folder / "agent.yaml"
        settings = {"name": "fuzzed", "listen": "127.0.0.1:0", "interface": "lo", "data": str(folder / "agent")}
        configuration.write_text(json.dumps(settings))
        with (folder / "log").open("w") as log:
            daemon = subprocess.Popen([*AGENT, "serve", "--config", str(configuration)], stdout=log, stderr=log)
        try:
            place = _enroll(folder, configuration, environment, daemon)
            return _fuzz(options, folder, daemon, place)
        except TimeoutError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            daemon.terminate()
            daemon.wait(30)


def _enroll(folder: Path, configuration: Path, environment: dict[str, str], daemon: subprocess.Popen[bytes]) -> str:
    """Where the daemon listens from then on."""
    subprocess.run([*EDGESIM, "fleet", "init"], check=True, env=environment, stdout=subprocess.DEVNULL)
    asked = subprocess.run(
        [*AGENT, "token", "--config", str(configuration)], check=True, capture_output=True, text=True
    )
    place = _place(folder / "log", "waits at", daemon)
    enroll = ["fleet", "enroll", place, "--name", "fuzzed", "--token", "-"]
    subprocess.run([*EDGESIM, *enroll], check=True, env=environment, input=asked.stdout, text=True)
    return _place(folder / "log", "listens on", daemon)


def _place(log: Path, words: str, daemon: subprocess.Popen[bytes]) -> str:
    """HOST:PORT, as the daemon tells after these words. Raises TimeoutError where it does not."""
    told = re.compile(f"{words} (?:https://)?([^ ,]+)[ ,]")
    deadline = time.monotonic() + 60
    while (found := told.search(log.read_text())) is None:
        code = daemon.poll()
        if code is not None or time.monotonic() > deadline:
            why = f"ended with {code}" if code is not None else "took more than 60 s"
            raise TimeoutError(f"the daemon {why} before it told what it {words}:\n{log.read_text()}")
        time.sleep(0.1)
    return found[1]


def _fuzz(options: argparse.Namespace, folder: Path, daemon: subprocess.Popen[bytes], place: str) -> int:
    fleet, report = folder / "fleet", folder / "report.json"
    controller = Authority.open(fleet).controller()
    checks = ["--checks", "all", "--exclude-checks", "ignored_auth,positive_data_acceptance"]
    # Streams of events last as long as their jobs.
    parts = ["--phases", "coverage,fuzzing", "--exclude-path-regex", "/events$"]
    # Two workers now and then break CPython 3.11's parser, which hypothesis calls in both.
    how = ["--max-examples", str(options.examples), "--seed", str(options.seed), "--workers", "1", "--no-shrink"]
    how += ["--continue-on-failure", "--request-timeout", "20"]
    tls = ["--tls-verify", str(controller.ca), "--request-cert", str(controller.certificate)]
    tls += ["--request-cert-key", str(controller.key)]
    told = ["--report", "json", "--report-json-path", str(report)]
    description = f"https://{place}/v1/openapi.json"
    command = [options.program, "run", description, *tls, *checks, *parts, *how, *told]
    code = subprocess.run(command, cwd=folder).returncode
    alive = daemon.poll() is None
    log = (folder / "log").read_text()
    print(f"daemon alive: {alive}; tracebacks in its log: {log.count('Traceback')}; schemathesis ended with {code}")
    problems = problems_of(json.loads(report.read_text())) if report.exists() else ["schemathesis has made no report"]
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.record and report.exists():
        options.record.write_text(report.read_text())
    return 0 if code == 0 and alive and "Traceback" not in log and not problems else 1


def problems_of(report: dict[str, Any]) -> list[str]:
    """Why schemathesis's report proves nothing good, one line each."""
    made = report["test_cases"]["generated"]
    broken = [failure for failure in report["failures"] if failure["type"] == SERVER_ERROR]
    found = [f"answered with 5xx, {failure['count']} times: {failure['operations']}" for failure in broken]
    return [*found, *([] if made >= LEAST else [f"found {made} requests made, allowed at least {LEAST}"])]


if __name__ == "__main__":
    sys.exit(main())
