"""Daemons of boards for tests: in a thread with processes that cost nothing, or in a process of their own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from node_agent.daemon import serve as serving
from node_agent.daemon.agent import Agent
from node_agent.daemon.api import Task
from node_agent.daemon.membership import Membership, Plaintext
from node_agent.daemon.process import Command
from node_agent.daemon.settings import AgentSettings
from node_agent.daemon.store import Store
from node_agent.device.power import power_mode
from node_agent.job import ShardSettings
from node_agent.security.identity import Identity

TELL = "import json, os, sys\ndef tell(**event): os.write(EVENTS, json.dumps(event).encode() + b'\\n')\n"
"""beginning of a program that stands for a job: it tells events"""


def settings(data: Path, **values: Any) -> AgentSettings:
    return AgentSettings(name="board", listen="127.0.0.1:0", data=data, interface="lo", **values)


def program(text: str) -> Command:
    """The command of a small Python program that knows `EVENTS`, the descriptor, and how to `tell`."""

    def command(events: int) -> Sequence[str]:
        return (sys.executable, "-I", "-S", "-c", f"EVENTS = {events}\n{TELL}{text}")

    return command


def commanding(task: Task, listening: int | None) -> Command:
    """The file that is a job's scene by its own word is the program that does it."""
    if task.kind != "run" or task.job.workload is None:
        return program("tell(event='finished')")
    assert isinstance(task.job.workload.scene, ShardSettings)  # the board has seen to it
    return program(f"exec(open('{task.job.workload.scene.file}').read())")


class Board:
    """What a test says to an agent."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=20, verify=context or False)

    def get(self, path: str, **more: Any) -> Any:
        answer = self.http.get(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def claim(self, files: dict[str, bytes], run: str = "test", lease_s: float = 20.0) -> str:
        announced = [
            {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        ]
        answer = self.http.post("/v1/jobs", json={"run": run, "lease_s": lease_s, "files": announced})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def send(self, job: str, name: str, content: bytes, offset: int = 0) -> httpx.Response:
        return self.http.put(f"/v1/jobs/{job}/files/{name}", params={"offset": offset}, content=content)

    def start(self, job: str, task: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/v1/jobs/{job}/start", json=task)

    def run(self, text: str, lease_s: float = 20.0) -> str:
        """Have a small program run as a job; its id."""
        job = self.claim({"program": text.encode()}, lease_s=lease_s)
        assert self.send(job, "program", text.encode()).status_code == 200
        answer = self.start(job, {"kind": "run", "job": a_job("program")})
        assert answer.status_code == 202, answer.text
        return job

    def told(self, job: str, after: int = 0) -> list[dict[str, Any]]:
        """All lines of the job's event stream, until its end."""
        with self.http.stream("GET", f"/v1/jobs/{job}/events", params={"after": after}) as answer:
            assert answer.status_code == 200
            return [json.loads(line) for line in answer.iter_lines() if line]

    def end(self, job: str) -> dict[str, Any]:
        """How the job ended."""
        return dict(self.told(job)[-1]["end"])

    def log(self, job: str, offset: int = 0) -> str:
        return self.http.get(f"/v1/jobs/{job}/log", params={"offset": offset}).text


def a_job(file: str, **values: Any) -> dict[str, Any]:
    """A node alone on a small strip of a scene."""
    scene = {"kind": "shard", "file": file, "name": "small", "describe": "a small scene", "shape": [24, 20, 32]}
    workload = {"name": "background", "scene": scene, "lines": [0, 24], "target_spectrum": [1000.0] * 32}
    return {
        "run": "test",
        "rank": 0,
        "nodes": ["n0"],
        "seed": 1,
        "steps": 3,
        "outgoing": None,
        "incoming": None,
        "rendezvous": "tcp://127.0.0.1:29500",
        "compressor": {"name": "none"},
        "workload": {**workload, "network": [48, 40, 8], "batch": 32},
        **values,
    }


@contextmanager
def in_thread(
    configured: AgentSettings, identity: Identity | None = None, context: ssl.SSLContext | None = None
) -> Iterator[Board]:
    """An agent in this process; it is stopped at last. With an identity it speaks TLS; `context` is the client's."""
    listening = socket.create_server((configured.host, configured.port))
    listening.setblocking(False)
    place = f"{'https' if identity else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
    started = threading.Event()
    made: dict[str, Any] = {}

    async def serve() -> None:
        store = Store(configured.data, configured.disk_bytes, configured.kept_jobs)
        try:
            made["stop"], made["loop"] = asyncio.Event(), asyncio.get_running_loop()
            security = Membership(identity) if identity else Plaintext()
            around = partial(power_mode, configured.power_mode, configured.nvpmodel)
            agent = Agent(configured, store, security, around, commanding)
            await agent.serve(listening, made["stop"], started.set)
        finally:
            store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20)
        yield Board(place, context)
    finally:
        made["loop"].call_soon_threadsafe(made["stop"].set)
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def in_process(
    folder: Path, *options: str, port: int = 0, lines: str = "", real: bool = False, **popen: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`node-agent serve`, and the first line that it says; killed at last. Unless it is a real one, jobs are small
    programs, as for an agent in a thread."""
    folder.mkdir(exist_ok=True)
    program = ["-m", "node_agent"] if real else [__file__]
    command = [sys.executable, *program, "serve", "--config", str(configuration(folder, port, lines)), *options]
    with started(command, **popen) as (process, said):
        yield process, said


def configuration(folder: Path, port: int = 0, lines: str = "") -> Path:
    """A file for an agent that keeps its data in `folder`/data."""
    path = folder / "agent.yaml"
    path.write_text(f"name: board\nlisten: 127.0.0.1:{port}\ndata: {folder / 'data'}\ninterface: lo\n{lines}")
    return path


@contextmanager
def started(command: Sequence[str], **popen: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first line that it says; killed at last."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def url_in(line: str) -> str:
    """Where an agent listens, by its own word."""
    return line.split(" listens on ")[1].split(",")[0]


if __name__ == "__main__":
    serving.Agent = partial(Agent, commanding=commanding)  # type: ignore[assignment,misc]
    sys.exit(serving.serve(Path(sys.argv[3]), "--insecure" in sys.argv))
