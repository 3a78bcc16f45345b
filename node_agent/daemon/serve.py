"""`node-agent serve`: the daemon of a board, from its configuration until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from node_agent.daemon.app import make
from node_agent.daemon.connections import Connections
from node_agent.daemon.gate import Gate
from node_agent.daemon.notify import Notifier
from node_agent.daemon.plaintext import Plaintext
from node_agent.daemon.refusal import one_line
from node_agent.daemon.server import BACKLOG, BoardServer
from node_agent.daemon.settings import AgentSettings, SettingsError, read
from node_agent.daemon.slot import Slot
from node_agent.daemon.store import DataFolderError, Store

FAILED, BAD_INPUT = 1, 2

log = logging.getLogger("node_agent.daemon")


def serve(config: Path | None = None, insecure: bool = False) -> int:
    """Be the daemon; returns the exit code."""
    _log_lines()
    try:
        settings = read(config)
    except SettingsError as error:
        return _refuse(BAD_INPUT, str(error))
    if insecure and not settings.on_loopback:
        return _refuse(
            BAD_INPUT, f"listen: found {settings.listen} with --insecure, allowed a loopback address such as 127.0.0.1"
        )
    _raise_limit_of_descriptors()
    try:
        listening = _listen(settings)
    except OSError as error:
        return _refuse(FAILED, f"{settings.listen}: {error.strerror}")
    try:
        store = Store(settings.data, settings.disk_bytes, settings.kept_jobs)
    except DataFolderError as error:
        listening.close()
        return _refuse(FAILED, str(error))
    try:
        asyncio.run(_daemon(settings, store, listening, insecure))
    finally:
        store.close()
    return 0


async def _daemon(settings: AgentSettings, store: Store, listening: socket.socket, insecure: bool) -> None:
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_failure)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    security = Plaintext()
    slot = Slot(settings, store)
    slot.take_up()
    app = make(settings, slot, security, began)
    connections = Connections(security.identify, lambda: _owner(slot))
    server = BoardServer(Gate(app, security.refuse), connections, security.tls)
    serving = asyncio.create_task(server.run_on(listening))
    stopping = asyncio.create_task(stop.wait())
    await server.listens.wait()
    notifier = Notifier()
    watchdog = asyncio.create_task(notifier.keep_alive())
    place = listening.getsockname()
    scheme = "https" if security.tls is not None else "http"
    host = f"[{place[0]}]" if ":" in place[0] else place[0]
    print(f"node-agent: {settings.name} listens on {scheme}://{host}:{place[1]}, data in {settings.data}", flush=True)
    notifier.tell("READY=1", f"STATUS=listens on {host}:{place[1]}")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    notifier.tell("STOPPING=1")
    await slot.stop()
    server.end()
    await serving
    watchdog.cancel()


def _owner(slot: Slot) -> str | None:
    return slot.current.record.owner if slot.current is not None and slot.current.active else None


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


def _raise_limit_of_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
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


def _refuse(code: int, message: str) -> int:
    print(f"node-agent: {message}", file=sys.stderr)
    return code
