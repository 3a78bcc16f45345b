"""Servers that say what they are told to: one of raw octets, and a board without any process behind it."""

from __future__ import annotations

import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from edgesim.fleet.address import Address
from edgesim.fleet.client import BoardClient
from edgesim.host import versions
from node_agent.events import Event, Finished, Observation, Received, Sent, Started, Step, StepParts
from node_agent.job import Job
from node_agent.wire import encode

Say = Callable[[socket.socket, str], None]
"""given a connection and the first line of the request on it"""


class Raw:
    """Answers every connection as `say` does, which may write anything at all."""

    def __init__(
        self, say: Say, secure: Callable[[socket.socket], socket.socket] = lambda connection: connection
    ) -> None:
        self._say = say
        self._secure = secure
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self.requests: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError), self._secure(connection) as connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            line = head.split(b"\r\n")[0].decode()
            self.requests.append(line)
            self._say(connection, line)

    def close(self) -> None:
        with suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def saying(say: Say | bytes) -> Iterator[tuple[Raw, BoardClient]]:
    """A server of that kind, and a client of it."""
    server = Raw(say if callable(say) else lambda connection, line: connection.sendall(say))
    client = BoardClient("b0", server.address, None)
    client.answer_within = client.silence = 0.3
    try:
        yield server, client
    finally:
        client.close()
        server.close()


def answer(body: bytes, code: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {code}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n".encode() + body


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"


class Board:
    """A board's API in plain HTTP, with a job that tells what it is told to.

    `told` makes the events of a job: an event; octets, sent as they are and once; a number, s without news; None, which
    breaks the connection.
    """

    def __init__(self, told: Callable[[Job], Sequence[Any]] = lambda job: [*played(job)], end: Any = None) -> None:
        self.told = told
        self.end = {"state": "finished", "error": None, "exit": 0} if end is None else end
        self.facts: dict[str, Any] = {
            "name": "b",
            "machine": "x",
            "model": "m",
            "boot": "one",
            "interface": "lo",
            "address": "127.0.0.1",
            "cores": 1,
            "memory_bytes": 2**30,
            "memory_limit_bytes": None,
            "disk_free_bytes": 2**30,
            "disk_limit_bytes": 2**30,
            "versions": {"edgesim": versions()["edgesim"], "torch": "2.9.1"},
        }
        self.id = secrets.token_hex(16)
        """of the jobs that it takes"""
        self.job: dict[str, Any] | None = None
        self.task: Job | None = None
        self.files: dict[str, bytearray] = {}
        self.lines: list[Any] = []
        self.asked: list[str] = []
        self.refuse: Callable[[str, str], tuple[int, dict[str, Any]] | None] = lambda method, path: None
        self.cut_uploads_at: list[int] = []
        self.printed = b"hello\n"
        self.benched: tuple[bytes, str | None] = (b"", None)
        """what comes of a calibration: its result, and an error"""
        self.clock = 0.0
        """ahead of this host's, s"""
        board = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                board._serve(self)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = Address("127.0.0.1", self._server.server_port)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: Any) -> None:
        path, method = request.path.removeprefix("/v1"), request.command
        self.asked.append(f"{method} {re.sub('/[0-9a-f]{32}', '/ID', path)}")
        refused = self.refuse(method, path)
        if refused is not None:
            request.close_connection = True
            return self._send(request, *refused)
        if (method, path) == ("GET", "/jobs"):
            return self._send(request, 200, [self.job] if self.job else [])
        if path.startswith("/jobs/") and self.job is None:
            return self._send(request, 404, {"error": "job: no such job"})
        if "/files/" in path:
            return self._take(request, path)
        length = int(request.headers.get("content-length", 0))
        body = json.loads(request.rfile.read(length) or "null")
        if path == "/health":
            health = {"name": "b", "state": self.job["state"] if self.job else "idle", "version": "1", "uptime_s": 1.0}
            health |= {"time_s": time.time() + self.clock, "monotonic_s": 1.0, "job": self.job}
            return self._send(request, 200, health)
        if path == "/board":
            return self._send(request, 200, self.facts)
        if (method, path) == ("POST", "/jobs"):
            self.job = {
                "id": self.id,
                "run": body["run"],
                "owner": "me",
                "state": "staging",
                "lease_s": body["lease_s"],
                "lease_left_s": body["lease_s"],
                "meeting": {"host": "127.0.0.1", "port": 4321},
                "files": [{"name": file["name"], "bytes": file["bytes"], "received": 0} for file in body["files"]],
            }
            return self._send(request, 201, self.job)
        assert self.job is not None
        if path.endswith("/start") and body["kind"] == "bench":
            error = self.benched[1]
            self.job |= {"state": "failed" if error else "finished", "error": error, "lease_left_s": None}
        elif path.endswith("/start"):
            self.task = Job.model_validate(body["job"])
            self.lines = list(self.told(self.task))
            self.job["state"] = "running"
        if "/events" in path:
            return self._tell(request, int(path.rpartition("=")[2]))
        if "/log" in path:
            return self._octets(request, self.printed[int(path.rpartition("=")[2]) :])
        if path.endswith("/result"):
            return self._octets(request, self.benched[0])
        if path.endswith("/cancel"):
            self.job |= {"state": "failed", "lease_left_s": None}
        if method == "DELETE":
            self.job = None
            return self._octets(request, b"", 204)
        return self._send(request, 200, self.job)

    def _take(self, request: Any, path: str) -> None:
        assert self.job is not None
        name, offset = path.split("/")[-1].split("?")[0], int(path.rpartition("=")[2])
        held = self.files.setdefault(name, bytearray())
        assert offset == len(held)
        left = int(request.headers["content-length"])
        if self.cut_uploads_at:
            held += request.rfile.read(self.cut_uploads_at.pop(0) - offset)
            self.job["files"][0]["received"] = len(held)
            request.close_connection = True
            return
        held += request.rfile.read(left)
        self.job["files"][0]["received"] = len(held)
        self._send(request, 200, self.job["files"][0])

    def _tell(self, request: Any, after: int) -> None:
        request.close_connection = True
        request.wfile.write(STREAM)
        request.wfile.write(b"\n")
        seq = 0
        for place, item in enumerate(self.lines):
            if item is None or isinstance(item, bytes | float):
                if seq >= after and item != b"":
                    self.lines[place] = b""
                    if item is None:
                        return
                    if isinstance(item, float):
                        self._keep_alive(request, item)
                    else:
                        request.wfile.write(item)
                continue
            seq += 1
            if seq > after:
                request.wfile.write(b'{"seq": %d, "event": %s}\n' % (seq, encode(item).strip()))
        if isinstance(self.end, dict):
            request.wfile.write(json.dumps({"seq": seq + 1, "end": self.end}).encode() + b"\n")
            if self.job is not None:
                self.job |= {"state": self.end["state"], "lease_left_s": None}

    def _keep_alive(self, request: Any, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.job is not None and self.job["state"] == "running":
            request.wfile.write(b"\n")
            time.sleep(0.1)

    def _send(self, request: Any, code: int, body: Any) -> None:
        self._octets(request, json.dumps(body).encode(), code)

    def _octets(self, request: Any, body: bytes, code: int = 200) -> None:
        request.send_response(code)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


FACTS = {
    "parameters": 100,
    "pixels": 10,
    "bands_kept": 3,
    "bands_dropped": [],
    "non_finite": 0,
    "negative": 0,
    "empty_pixels": 0,
    "scaling": [0.0, 1.0],
}


def played(job: Job, steps: int | None = None) -> Iterator[Event]:
    """What a node tells of a run of so many steps (None: to the end) with nothing but its first and last maps."""
    workload = job.workload
    assert workload is not None
    shape = (workload.lines[1] - workload.lines[0], workload.scene.shape[1])  # type: ignore[union-attr]
    generator = np.random.default_rng(job.rank)

    def maps() -> dict[str, Any]:
        return {name: generator.random(shape).astype(np.float32) for name in ("residual", "coarse")}

    yield Started(job.rank, job.node, 1, FACTS, Sent(1, 10, 2), 0.5, 400, job.outgoing)
    yield Observation(job.rank, job.node, 0, 0.0, maps())
    for number in range(1, (job.steps if steps is None else steps) + 1):
        parts, sent = StepParts(1.0, 0.0, 0.0, 0.0, 0.0), Sent(1, 390, 10)
        yield Step(job.rank, job.node, number, number, 1.0, 0.1, parts, sent, Received(), 100, number, 400)
    if steps is None:
        yield Observation(job.rank, job.node, job.steps, float(job.steps), maps())
        yield Finished(job.rank, job.node, float(job.steps), job.steps, "ab" * 32, 100)


def write_inventory(path: Path, boards: Sequence[Board]) -> Path:
    lines = [f"  - {{name: b{i}, address: '{board.address}'}}\n" for i, board in enumerate(boards)]
    path.write_text("boards:\n" + "".join(lines))
    return path
