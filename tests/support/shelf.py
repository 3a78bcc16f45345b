"""A shelf of emulated boards: each a daemon with a network, a mount and a time namespace of its own, behind a cable
that can be cut, on a bridge in a laboratory's network where the controller runs.

Boards see neither the controller's files nor any scene: an empty file system of their own lies over both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PORT = 7443
LABORATORY = "10.78.0.254"
PATIENCE = 60.0
"""s for which a busy host may take to start a daemon, or a board to be idle again"""


def missing() -> str | None:
    """Why there can be no shelf here; None if there can."""
    if os.geteuid() != 0:
        return "namespaces with network devices between them take root here"
    for tool in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is absent"
    tried = subprocess.run(["unshare", "--net", "--mount", "--time", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else tried.stderr.strip()


@dataclass
class Board:
    """One board of a shelf, powered on, with or without its daemon."""

    name: str
    address: str
    cable: str
    """its end of the cable in the laboratory"""
    holder: subprocess.Popen[str]
    shelf: Shelf
    daemon: subprocess.Popen[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.address}:{PORT}"

    @property
    def data(self) -> Path:
        """The agent's folder, as this process sees it."""
        return Path(f"/proc/{self.holder.pid}/root{self.shelf.folder}/agent")

    def command(self, *words: str) -> list[str]:
        spaces = (f"--{kind}=/proc/{self.holder.pid}/ns/{kind}" for kind in ("net", "mnt", "time"))
        return ["nsenter", *(space.replace("--mnt", "--mount") for space in spaces), "--", *words]

    def agent(self, *words: str) -> list[str]:
        return self.command(sys.executable, "-m", "node_agent", *words)

    def serve(self) -> None:
        """Start the daemon, and return once it listens."""
        configuration = {"name": self.name, "listen": f"{self.address}:{PORT}", "interface": "eth0", **self.settings}
        configuration["data"] = f"{self.shelf.folder}/agent"
        inside = f"{self.shelf.folder}/agent.yaml"
        Path(f"/proc/{self.holder.pid}/root{inside}").write_text(json.dumps(configuration))
        log = (self.shelf.folder / f"{self.name}.log").open("a")
        self.daemon = subprocess.Popen(
            self.agent("serve", "--config", inside), stdout=log, stderr=log, text=True, env=self.shelf.environment
        )
        log.close()
        self.wait_for_port()

    def wait_for_port(self) -> None:
        deadline = time.monotonic() + PATIENCE
        probe = f"import socket; socket.create_connection(('{self.address}', {PORT}), 1)"
        while subprocess.run(self.shelf.command(sys.executable, "-c", probe), capture_output=True).returncode:
            assert self.daemon is None or self.daemon.poll() is None, self.shelf.log(self.name)
            assert time.monotonic() < deadline, self.shelf.log(self.name)
            time.sleep(0.1)

    def token(self) -> str:
        config = f"{self.shelf.folder}/agent.yaml"
        done = subprocess.run(
            self.agent("token", "--config", config), capture_output=True, text=True, env=self.shelf.environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def processes(self) -> list[psutil.Process]:
        """The daemon's descendants: of a job."""
        assert self.daemon is not None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.daemon.pid).children(recursive=True)
        return []

    def cut(self, connected: bool = False) -> None:
        self.shelf.inside("ip", "link", "set", self.cable, "up" if connected else "down")

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.terminate()
            try:
                self.daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
            self.daemon.wait()
            self.daemon = None


@dataclass
class Shelf:
    folder: Path
    """the controller's; on boards something else is there"""
    laboratory: subprocess.Popen[str]
    boards: list[Board] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "EDGESIM_FLEET": str(self.folder / "fleet"), "COLUMNS": "100"}

    def command(self, *words: str) -> list[str]:
        """What runs a program in the laboratory's network."""
        return ["nsenter", f"--net=/proc/{self.laboratory.pid}/ns/net", "--", *words]

    def inside(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def edgesim(self, *words: str) -> list[str]:
        return self.command(sys.executable, "-c", "from edgesim.cli import main; main()", *words)

    def run(self, *words: str, status: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """An edgesim command in the laboratory; it has to end with this status."""
        done = subprocess.run(
            self.edgesim(*words), capture_output=True, text=True, env=self.environment, cwd=self.folder, input=stdin
        )
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done

    def enroll(self) -> None:
        """Make a fleet, and give every board its certificate."""
        self.run("fleet", "init")
        for board in self.boards:
            self.run("fleet", "enroll", board.place, "--name", board.name, "--token", "-", stdin=board.token())

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@contextmanager
def shelf(folder: Path, names: Sequence[str], **settings: Any) -> Iterator[Shelf]:
    """Boards of these names, powered on and cabled; their daemons serve with these settings once told to."""
    hidden = [folder, *_scenes()]
    with _holder(
        ["unshare", "--net"], "ip link set lo up && ip link add bridge type bridge && ip link set bridge up "
        f"&& ip address add {LABORATORY}/24 dev bridge"
    ) as laboratory:  # fmt: skip
        found = Shelf(folder, laboratory)
        holders = []
        try:
            for place, name in enumerate(names, start=1):
                covers = " && ".join(f"mount -t tmpfs -o mode=700 tmpfs '{path}'" for path in hidden)
                holder = _holder(
                    ["unshare", "--net", "--mount", "--time", "--monotonic", str(1000 * place)],
                    f"mount --make-rprivate / && {covers} && ip link set lo up",
                )
                process = holder.__enter__()
                holders.append(holder)
                board = Board(name, f"10.78.0.{place}", f"cable{place}", process, found, settings=settings)
                found.boards.append(board)
                found.inside(
                    "ip", "link", "add", board.cable, "type", "veth", "peer", "eth0", "netns", str(process.pid)
                )
                found.inside("ip", "link", "set", board.cable, "master", "bridge", "up")
                for words in (f"address add {board.address}/24 dev eth0", "link set eth0 up"):
                    subprocess.run(board.command("ip", *words.split()), check=True, capture_output=True)
            yield found
        finally:
            for board in found.boards:
                board.stop()
            for holder in reversed(holders):
                holder.__exit__(None, None, None)


@contextmanager
def _holder(unshare: Sequence[str], prepare: str) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps namespaces until the end of its input."""
    holder = subprocess.Popen(
        [*unshare, "sh", "-c", f"{prepare} && echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stderr is not None
        ready = holder.stdout.readline()
        assert ready == "ready\n", holder.stderr.read()
        yield holder
    finally:
        holder.communicate()


def _scenes() -> list[Path]:
    """Folders with scenes of this host."""
    package = importlib.util.find_spec("tensorly")
    assert package is not None
    assert package.origin is not None
    folders = [Path(package.origin).parent / "datasets" / "data"]
    chosen = os.environ.get("EDGESIM_DATA")
    shared = Path(chosen) if chosen else Path(__file__).resolve().parents[3] / "shared" / "data"
    return [*folders, *([shared] if shared.is_dir() else [])]
