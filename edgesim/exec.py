"""One command on every node of a topology, over the links of the file: started, listened to, and ended together."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, BinaryIO

from rich.console import Console
from rich.style import Style

from edgesim.network.namespaces import Network
from edgesim.network.plan import DATA, aside_address, data_address
from edgesim.network.records import TOKEN

MASTER_PORT = 29500
KILLED_AFTER = 3.0
"""s that a node has to end after it has been told to"""

INTERRUPTED = 130

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")


def environment(network: Network, rank: int) -> dict[str, str]:
    """What a node's command finds besides our own environment: what torchrun sets with one process a node, and the
    addresses of all nodes. Rendezvous goes past the links, collectives over them."""
    nodes = network.plan.nodes
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(nodes)),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(rank),
        "MASTER_ADDR": aside_address(0),
        "MASTER_PORT": str(MASTER_PORT),
        "GLOO_SOCKET_IFNAME": DATA,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "EDGESIM_NODE": nodes[rank],
        "EDGESIM_ADDRESSES": " ".join(data_address(other) for other in range(len(nodes))),
        TOKEN: network.token,
    }


@dataclass
class Output:
    """Whole lines, each behind its node's name; colours where a terminal shows them."""

    names: Sequence[str]
    stdout: BinaryIO = field(default_factory=lambda: sys.stdout.buffer)
    stderr: BinaryIO = field(default_factory=lambda: sys.stderr.buffer)

    def __post_init__(self) -> None:
        self._rest: dict[tuple[int, bool], bytes] = {}
        # rich decides what the terminal can do, and whether NO_COLOR or the like is set.
        system = Console()._color_system if self.stdout.isatty() else None
        width = max(map(len, self.names))
        self._prefixes = []
        for rank, name in enumerate(self.names):
            text = f"{name:<{width}} | "
            if system is not None:
                colour = Style(color=_COLOURS[rank % len(_COLOURS)])
                text = colour.render(text, color_system=system)
            self._prefixes.append(text.encode())

    def write(self, rank: int, is_error: bool, octets: bytes) -> None:
        """Take what a node wrote, and pass on the lines that are whole."""
        *lines, rest = (self._rest.get((rank, is_error), b"") + octets).split(b"\n")
        self._rest[rank, is_error] = rest
        self._print(rank, is_error, lines)

    def end(self, rank: int, is_error: bool) -> None:
        """Pass on a last line that has no end."""
        rest = self._rest.pop((rank, is_error), b"")
        self._print(rank, is_error, [rest] if rest else [])

    def _print(self, rank: int, is_error: bool, lines: Sequence[bytes]) -> None:
        if lines:
            stream = self.stderr if is_error else self.stdout
            stream.write(b"".join(self._prefixes[rank] + line + b"\n" for line in lines))
            stream.flush()


class _Node:
    """A node's command, behind its supervisor."""

    def __init__(self, network: Network, rank: int, command: Sequence[str]) -> None:
        lifeline, self._lifeline = os.pipe()
        entrance = network.entrances[rank]
        where = [str(lifeline), entrance.network, entrance.user or ""]
        arguments = [sys.executable, "-m", "edgesim.network.supervise", *where, *command]
        try:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment(network, rank)},
                pass_fds=[lifeline],
                start_new_session=True,
            )
        finally:
            os.close(lifeline)
        self.open_streams = 2
        self.told_to_end = False

    def signal(self, number: int) -> None:
        self.told_to_end = True
        with suppress(BrokenPipeError):
            os.write(self._lifeline, bytes([number]))

    def close(self) -> None:
        """Nothing of the command is left afterwards."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self.process.wait()


def run_everywhere(network: Network, command: Sequence[str], output: Output, grace: float) -> int:
    """Run `command` on every node, and return the worst exit code of those that ended by themselves.

    Once one has failed the others have `grace` seconds to end too, then they are told to. An interrupt ends all: first
    as an interrupt, after the same grace by force. Raises OSError where a process cannot be started.
    """
    nodes: list[_Node] = []
    try:
        for rank in range(len(network.plan.nodes)):
            nodes.append(_Node(network, rank, command))
        network.begin(time.monotonic())
        return _Supervision(nodes, output, grace).run()
    finally:
        for node in nodes:
            node.close()


class _Supervision:
    def __init__(self, nodes: Sequence[_Node], output: Output, grace: float) -> None:
        self._nodes = nodes
        self._output = output
        self._grace = grace
        self._codes: list[int] = []
        self._interrupted = False
        self._orders: list[tuple[float, int]] = []
        """when to send which signal to all that are left"""
        self._selector = selectors.DefaultSelector()
        for rank, node in enumerate(nodes):
            for is_error, stream in enumerate((node.process.stdout, node.process.stderr)):
                self._selector.register(stream, selectors.EVENT_READ, (rank, bool(is_error)))  # type: ignore[arg-type]

    def run(self) -> int:
        while self._selector.get_map():
            try:
                self._step()
            except KeyboardInterrupt:
                self._interrupt()
        return INTERRUPTED if self._interrupted else max(self._codes, default=0)

    def _step(self) -> None:
        wait = max(0.0, self._orders[0][0] - time.monotonic()) if self._orders else None
        for key, _ in self._selector.select(wait):
            rank, is_error = key.data
            stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
            if octets := os.read(stream.fileno(), 65536):
                self._output.write(rank, is_error, octets)
                continue
            self._output.end(rank, is_error)
            self._selector.unregister(stream)
            stream.close()
            self._nodes[rank].open_streams -= 1
            if not self._nodes[rank].open_streams:
                self._ended(self._nodes[rank])
        while self._orders and self._orders[0][0] <= time.monotonic():
            self._tell_all(self._orders.pop(0)[1])

    def _ended(self, node: _Node) -> None:
        code = node.process.wait()
        if not node.told_to_end:
            self._codes.append(code)
        if code and not self._orders:
            now = time.monotonic()
            self._orders = [
                (now + self._grace, signal.SIGTERM),
                (now + self._grace + KILLED_AFTER, signal.SIGKILL),
            ]

    def _interrupt(self) -> None:
        """The second one does not wait."""
        now = time.monotonic()
        self._tell_all(signal.SIGKILL if self._interrupted else signal.SIGINT)
        self._orders = [] if self._interrupted else [(now + self._grace, signal.SIGKILL)]
        self._interrupted = True

    def _tell_all(self, number: int) -> None:
        for node in self._nodes:
            if node.open_streams:
                node.signal(number)
