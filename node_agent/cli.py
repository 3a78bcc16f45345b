"""The `node-agent` command: does one node's job, takes jobs as a daemon, and what a board's owner does on it."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from node_agent.exits import FAILED, INTERRUPTED, refuse
from node_agent.job import Job

if TYPE_CHECKING:
    from node_agent.events import Event

PR_SET_PDEATHSIG = 1
"""of prctl(2)"""


def main() -> None:
    """Entry point of the `node-agent` command."""
    parser = argparse.ArgumentParser(prog="node-agent", description="The node of an edgesim run.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser(
        "run", help="do one job: the events go to standard output, a line of JSON each; exits 1 if it failed"
    )
    run.add_argument("job", type=Path, help="the job as JSON; `node-agent schema` tells its form")
    run.add_argument("--events", type=int, metavar="FD", help="descriptor for the events instead, with their arrays")
    run.add_argument("--listen", type=int, metavar="FD", help="descriptor of the socket at which the nodes meet")
    run.add_argument("--lifeline", type=int, metavar="FD", help="descriptor: once its other end is gone, this ends")
    verbs.add_parser("schema", help="print the JSON schema of a job")
    serve = verbs.add_parser("serve", help="be the daemon of this board: take jobs over HTTPS, one at a time")
    serve.add_argument("--config", type=Path, metavar="FILE", help="YAML; usually /etc/edgesim/agent.yaml if it exists")
    serve.add_argument("--insecure", action="store_true", help="plain HTTP, on a loopback address only")
    for verb, does in (
        ("token", "make and print a token with which a workstation enrols this board: once, within an hour"),
        ("forget", "leave the fleet: remove this board's key and certificates"),
    ):
        own = verbs.add_parser(verb, help=does)
        own.add_argument("--config", type=Path, metavar="FILE", help="of the daemon, as for serve")
    check = verbs.add_parser("check", help="tell what this board can do; exits 1 if no job can run")
    check.add_argument("--json", action="store_true", help="for scripts")
    bench = verbs.add_parser("bench", help="calibrate a device profile: nothing else should run meanwhile")
    bench.add_argument("--quick", action="store_true", help="smaller matrices, fewer repetitions")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write the profile there, instead of printing it")
    bench.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is a device"
    )
    arguments = parser.parse_args()
    if arguments.verb in ("token", "forget"):
        sys.exit(_identity(arguments.verb, arguments.config))
    if arguments.verb == "schema":
        print(json.dumps(Job.model_json_schema(), indent=2))
        return
    if arguments.verb == "serve":
        from node_agent.daemon.serve import serve as be_the_daemon

        sys.exit(be_the_daemon(arguments.config, arguments.insecure))
    if arguments.verb in ("check", "bench"):
        from node_agent.device import verbs as of_device

        try:
            if arguments.verb == "check":
                sys.exit(of_device.check(arguments.json))
            sys.exit(of_device.bench(arguments.out, arguments.quick, arguments.device))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
    try:
        code = _run(arguments.job, arguments.events, arguments.listen, arguments.lifeline)
    except KeyboardInterrupt:
        code = INTERRUPTED
    # Receives may still be posted for messages that will never come: there is nothing to tear down in an orderly way.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(path: Path, events: int | None, listener: int | None, lifeline: int | None) -> int:
    if lifeline is not None:
        _live_as_long_as(lifeline)
    try:
        job = Job.model_validate_json(path.read_bytes())
    except OSError as error:
        return refuse(f"{path}: {error.strerror}")
    except ValidationError as error:
        first = error.errors()[0]
        return refuse(f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}")

    from node_agent import wire, worker
    from node_agent.events import Fault
    from node_agent.plain import described, plain

    telling = threading.Lock()
    failed = False

    def emit(event: Event) -> None:
        nonlocal failed
        failed = failed or isinstance(event, Fault)
        with telling:
            if events is None:
                print(json.dumps(plain(described(event)), allow_nan=False), flush=True)
            else:
                _write(events, wire.encode(event))
                if isinstance(event, Fault):
                    with suppress(OSError):  # whoever reads the log may be gone; the event has been told
                        print(event.traceback or event.error, file=sys.stderr, flush=True)

    worker.run(job, emit, listener)
    return FAILED if failed else 0


def _write(descriptor: int, octets: bytes) -> None:
    left = memoryview(octets)
    while left:
        left = left[os.write(descriptor, left) :]


def _live_as_long_as(lifeline: int) -> None:
    """End with the process that started this one, also where that was killed, or where this one is stopped: to the
    kernel it is the thread that started this one, which therefore has to live as long."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        with suppress(OSError):
            while os.read(lifeline, 1):
                pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _identity(verb: str, config: Path | None) -> int:
    from node_agent.daemon import settings
    from node_agent.security import verbs

    try:
        data = settings.read(config).data
    except settings.SettingsError as error:
        return refuse(str(error))
    return verbs.token(data) if verb == "token" else verbs.forget(data)
