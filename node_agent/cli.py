"""The `node-agent` command: does one node's job."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path

from pydantic import ValidationError

from node_agent.events import Event, Fault
from node_agent.job import Job
from node_agent.plain import described, plain

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Entry point of the `node-agent` command."""
    parser = argparse.ArgumentParser(prog="node-agent", description="The node of an edgesim run.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser(
        "run", help="do one job: the events go to standard output, a line of JSON each; exits 1 if it failed"
    )
    run.add_argument("job", type=Path, help="the job as JSON; `node-agent schema` tells its form")
    verbs.add_parser("schema", help="print the JSON schema of a job")
    arguments = parser.parse_args()
    if arguments.verb == "schema":
        print(json.dumps(Job.model_json_schema(), indent=2))
        return
    try:
        code = _run(arguments.job)
    except KeyboardInterrupt:
        code = INTERRUPTED
    # Receives may still be posted for messages that will never come: there is nothing to tear down in an orderly way.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(path: Path) -> int:
    try:
        job = Job.model_validate_json(path.read_bytes())
    except OSError as error:
        return _refuse(f"{path}: {error.strerror}")
    except ValidationError as error:
        first = error.errors()[0]
        return _refuse(f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}")

    from node_agent import worker

    printing = threading.Lock()
    failed = False

    def emit(event: Event) -> None:
        nonlocal failed
        failed = failed or isinstance(event, Fault)
        with printing:
            print(json.dumps(plain(described(event)), allow_nan=False), flush=True)

    worker.run(job, emit)
    return FAILED if failed else 0


def _refuse(message: str) -> int:
    print(f"node-agent: {message}", file=sys.stderr)
    return BAD_INPUT
