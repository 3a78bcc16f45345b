"""`node-agent serve`: the daemon of a board, from its configuration until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from node_agent.daemon.agent import Agent
from node_agent.daemon.membership import Membership, Plaintext
from node_agent.daemon.notify import Notifier
from node_agent.daemon.refusal import one_line
from node_agent.daemon.server import BACKLOG
from node_agent.daemon.settings import AgentSettings, SettingsError, read
from node_agent.daemon.store import POWER_MODE, PROBES, DataFolderError, Store
from node_agent.device.power import PowerError, power_mode, restore
from node_agent.exits import FAILED, INTERRUPTED, refuse
from node_agent.security.enrolment import serve_enrolment
from node_agent.security.errors import IdentityError
from node_agent.security.identity import Identity
from node_agent.security.verbs import FOLDER

DESCRIPTORS = 4096

log = logging.getLogger("node_agent")


def serve(config: Path | None = None, insecure: bool = False) -> int:
    """Be the daemon; returns the exit code."""
    try:
        settings = read(config)
    except SettingsError as error:
        return refuse(str(error))
    if insecure and not settings.on_loopback:
        return refuse(f"listen: found {settings.listen} with --insecure, allowed a loopback address such as 127.0.0.1")
    _limit_descriptors()
    try:
        listening = _listen(settings)
    except OSError as error:
        return refuse(f"{settings.listen}: {error.strerror}", FAILED)
    try:
        store = Store(settings.data, settings.disk_bytes, settings.kept_jobs)
    except DataFolderError as error:
        listening.close()
        return refuse(str(error), FAILED)
    _log_lines()
    try:
        return asyncio.run(_daemon(settings, store, listening, insecure))
    except IdentityError as error:
        return refuse(str(error), FAILED)
    except KeyboardInterrupt:  # before there was anything to end
        return INTERRUPTED
    finally:
        store.close()


async def _daemon(settings: AgentSettings, store: Store, listening: socket.socket, insecure: bool) -> int:
    """Raises IdentityError."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_failure)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    notifier = Notifier()
    watchdog = asyncio.create_task(notifier.keep_alive())
    try:
        await asyncio.to_thread(_settle, settings)
        security = Plaintext() if insecure else await _membership(settings, listening, notifier, stop)
        if security is not None:
            place = f"{'http' if insecure else 'https'}://{_place(listening)}"

            def ready() -> None:
                print(f"node-agent: {settings.name} listens on {place}, data in {settings.data}", flush=True)
                notifier.tell("READY=1", f"STATUS=listens on {place}")

            note = settings.data / POWER_MODE
            around = partial(power_mode, settings.power_mode, settings.nvpmodel, note=note)
            await Agent(settings, store, security, around).serve(listening, stop, ready)
    finally:
        watchdog.cancel()
        notifier.tell("STOPPING=1")
        listening.close()
    return 0


def _settle(settings: AgentSettings) -> None:
    """Undo what an earlier daemon's job has left of its settings, if it was killed, and forget what it found out."""
    try:
        (settings.data / PROBES).unlink(missing_ok=True)
        mode = restore(settings.data / POWER_MODE, settings.nvpmodel)
    except (PowerError, OSError) as error:  # the next job goes back to the mode that is noted
        log.error(str(error))
    else:
        if mode is not None:
            log.warning(f"the board is in power mode {mode} again, as before a job that an earlier agent had started")


async def _membership(
    settings: AgentSettings, listening: socket.socket, notifier: Notifier, stop: asyncio.Event
) -> Membership | None:
    """The board's own, once it is enrolled; None: it was told to stop before. Raises IdentityError."""
    identity = Identity(settings.data / FOLDER)
    if not identity.enrolled:
        place = _place(listening)
        print(f"node-agent: {settings.name} waits at {place} to be enrolled: node-agent token", flush=True)
        notifier.tell("READY=1", f"STATUS=waits at {place} to be enrolled")
        await serve_enrolment(identity, settings.name, listening, stop)
        if stop.is_set():
            return None
    return Membership(identity)


def _place(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(settings: AgentSettings) -> socket.socket:
    """Raises OSError."""
    family, kind, protocol, _, place = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _limit_descriptors() -> None:
    """Enough for all connections, and few enough that a job's guard, which closes all, takes no time for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"node-agent: {one_line(record.getMessage())}"


def _log_lines() -> None:
    """What the daemon has to say goes to standard error, a line each; libraries are heard where they fail."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.ERROR)
    log.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # its gate says what failed


def _log_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error(f"{context.get('message', 'failure')}{f': {type(error).__name__}: {error}' if error else ''}")
