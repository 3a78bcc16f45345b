"""One command on every node of a topology, over the links of the file: started, listened to, and ended together."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO, BinaryIO

import psutil
from rich.console import Console
from rich.style import Style

from edgesim.network import helpers
from edgesim.network.namespaces import Network, NetworkError
from edgesim.network.plan import DATA, aside_address, data_address
from edgesim.network.records import PATIENCE, TOKEN
from node_agent.job import Window

MASTER_PORT = 29500
KILLED_AFTER = 3.0
"""s that a node has to end after it has been told to"""

LONGEST_WAIT = 3600.0
"""s; what waits for a descriptor counts in milliseconds, of which it takes no more than 32 bits"""

LONGEST_LINE = 65536
"""bytes of a line that are held back until it is whole"""

UPDATE_EVERY = 1.0
"""s between those updates of a line (ended by a carriage return) that are passed on"""

PIPE_SIZE = 2**20
"""bytes that a pipe may hold, unless the superuser has made it larger (pipe(7))"""

NODE = "EDGESIM_NODE"

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
        NODE: nodes[rank],
        "EDGESIM_ADDRESSES": " ".join(data_address(other) for other in range(len(nodes))),
        TOKEN: network.token,
    }


class _Lines:
    """Of one stream: lines that are whole, and now and then an update of one that a program writes over and over."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._update = b""
        """the last one that was not passed on"""
        self._return = b""
        """a carriage return whose meaning depends on what follows"""
        self._passed_on = float("-inf")

    def take(self, octets: bytes, now: float) -> Iterator[bytes]:
        octets = self._return + octets
        self._return = b"\r" if octets.endswith(b"\r") else b""
        for piece in octets.removesuffix(b"\r").splitlines(keepends=True):
            if piece.endswith(b"\n"):
                self._update = b""
                yield self._whole(piece)
            elif piece.endswith(b"\r"):
                yield from self._updated(self._whole(piece), now)
            else:
                self._parts.append(piece)
                self._size += len(piece)
                if self._size >= LONGEST_LINE:
                    yield self._whole(b"")

    def end(self) -> Iterator[bytes]:
        """The last line, which has no end."""
        if self._parts:
            yield self._whole(b"")
        elif self._update:
            yield self._update

    def _whole(self, piece: bytes) -> bytes:
        line = b"".join((*self._parts, piece.rstrip(b"\r\n")))
        self._parts.clear()
        self._size = 0
        return line

    def _updated(self, line: bytes, now: float) -> Iterator[bytes]:
        if line and now - self._passed_on >= UPDATE_EVERY:
            self._passed_on = now
            self._update = b""
            yield line
        elif line:
            self._update = line


def _standard(stream: str) -> BinaryIO:
    """Nowhere, where the stream was closed before we started."""
    found = getattr(sys, stream)
    return open(os.devnull, "wb") if found is None else found.buffer


@dataclass
class Output:
    """Whole lines, each behind its node's name; colours where a terminal shows them.

    A line of more than LONGEST_LINE bytes is cut. Of a progress bar that is drawn over itself a state is passed on
    every UPDATE_EVERY seconds, and the last one.
    """

    names: Sequence[str]
    stdout: BinaryIO = field(default_factory=partial(_standard, "stdout"))
    stderr: BinaryIO = field(default_factory=partial(_standard, "stderr"))

    def __post_init__(self) -> None:
        self._lines: dict[tuple[int, bool], _Lines] = {}
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
        lines = self._lines.setdefault((rank, is_error), _Lines())
        self._print(rank, is_error, list(lines.take(octets, time.monotonic())))

    def end(self, rank: int, is_error: bool) -> None:
        """Pass on a last line that has no end."""
        if (lines := self._lines.pop((rank, is_error), None)) is not None:
            self._print(rank, is_error, list(lines.end()))

    def _print(self, rank: int, is_error: bool, lines: Sequence[bytes]) -> None:
        if lines:
            stream = self.stderr if is_error else self.stdout
            stream.write(b"".join(self._prefixes[rank] + line + b"\n" for line in lines))
            stream.flush()


class _Node:
    """A node's command, behind its supervisor."""

    def __init__(self, network: Network, rank: int, command: Sequence[str]) -> None:
        """Raises OSError where it cannot be started."""
        self.rank = rank
        self.name = network.plan.nodes[rank]
        self.code: int | None = None
        """None: it goes on"""
        self.told_to_end = False
        self._stopped = False
        self._marks = {TOKEN: network.token, NODE: self.name}
        entrance = network.entrances[rank]
        with ExitStack() as failing:
            lifeline, self._lifeline = os.pipe()
            failing.callback(os.close, self._lifeline)
            where = [str(lifeline), entrance.network, entrance.user or "", os.getcwd()]
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "edgesim.network.supervise", *where, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=helpers.environment(**environment(network, rank)),
                    pass_fds=[lifeline],
                    cwd=helpers.FOLDER,
                    start_new_session=True,
                )
            finally:
                os.close(lifeline)
            self.ending = os.pidfd_open(self.process.pid)
            """readable once the supervisor has ended"""
            failing.pop_all()

    def signal(self, number: int) -> None:
        """To the command's process group."""
        with suppress(BrokenPipeError):
            os.write(self._lifeline, bytes([number]))

    def end(self, number: int) -> None:
        self.told_to_end = True
        self.signal(number)
        self.go_on()

    def pause(self) -> None:
        if not self.told_to_end:
            self._stopped = True
            self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._stopped:
            self._stopped = False
            self.signal(signal.SIGCONT)

    def end_marked(self) -> None:
        """End what a supervisor that was killed could not end any more."""
        deadline = time.monotonic() + PATIENCE
        while (left := list(_marked(self._marks))) and time.monotonic() < deadline:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=0.2)

    def abandon(self) -> None:
        """The supervisor ends the command, and then itself."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def close(self) -> None:
        """Nothing of the command is left afterwards, unless the kernel itself holds it up."""
        self.abandon()
        try:
            self.process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.end_marked()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        os.close(self.ending)


def _marked(marks: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Processes that were given these variables in their environment. Other users' processes do not tell."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if marks.items() <= process.environ().items():
                yield process


def run_everywhere(
    network: Network,
    command: Sequence[str],
    output: Output,
    grace: float,
    pauses: Sequence[Sequence[Window]] = (),
) -> int:
    """Run `command` on every node, and return the worst exit code of those that ended by themselves.

    Once one has failed the others have `grace` seconds to end too, then they are told to. An interrupt ends all: first
    as an interrupt, after the same grace by force; KeyboardInterrupt is raised once they have ended. `pauses`: when
    each node is stopped, by the run's clock. Raises NetworkError where a process cannot be started, or where the
    network is gone.
    """
    nodes: list[_Node] = []
    try:
        for rank, name in enumerate(network.plan.nodes):
            try:
                nodes.append(_Node(network, rank, command))
            except OSError as error:
                raise NetworkError(f"{name}: no process can be started: {error.strerror}") from error
        began = time.monotonic()
        network.begin(began)
        with _Supervision(network, nodes, output, grace) as supervision:
            supervision.plan_pauses(began, pauses)
            return supervision.run()
    finally:
        for node in nodes:
            node.abandon()
        for node in nodes:
            node.close()


class _Supervision:
    def __init__(self, network: Network, nodes: Sequence[_Node], output: Output, grace: float) -> None:
        """Raises NetworkError where a process that the network depends on has ended."""
        self._nodes = nodes
        self._output = output
        self._grace = grace
        self._interrupted = False
        self._ending = False
        self._orders: list[tuple[float, Callable[[], None]]] = []
        """what to do when, on the host's monotonic clock; ascending"""
        self._selector = selectors.DefaultSelector()
        with ExitStack() as self._open:
            self._open.callback(self._selector.close)
            for node in nodes:
                self._watch(node.ending, partial(self._ended, node))
                for is_error, stream in enumerate((node.process.stdout, node.process.stderr)):
                    assert stream is not None
                    os.set_blocking(stream.fileno(), False)
                    self._watch(stream, partial(self._read, node, stream, bool(is_error)))
            for pid, what in network.processes.items():
                try:
                    ending = os.pidfd_open(pid)
                except ProcessLookupError:
                    self._lost(what)
                self._open.callback(os.close, ending)
                self._watch(ending, partial(self._lost, what))
            self._open = self._open.pop_all()

    def __enter__(self) -> _Supervision:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _watch(self, descriptor: int | IO[bytes], then: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, then)

    def plan_pauses(self, began: float, pauses: Sequence[Sequence[Window]]) -> None:
        """`began`: when the run's clock showed 0."""
        for node, windows in zip(self._nodes, pauses, strict=False):
            for window in windows:
                self._order(began + window.start, node.pause)
                self._order(began + window.end, node.go_on)

    def run(self) -> int:
        while any(node.code is None for node in self._nodes):
            try:
                self._step()
            except KeyboardInterrupt:
                self._interrupt()
        if self._interrupted:
            raise KeyboardInterrupt
        return max((node.code or 0 for node in self._nodes if not node.told_to_end), default=0)

    def _order(self, when: float, what: Callable[[], None]) -> None:
        self._orders.append((when, what))
        self._orders.sort(key=lambda order: order[0])

    def _step(self) -> None:
        wait = min(max(0.0, self._orders[0][0] - time.monotonic()), LONGEST_WAIT) if self._orders else None
        for key, _ in self._selector.select(wait):
            key.data()
        while self._orders and self._orders[0][0] <= time.monotonic():
            self._orders.pop(0)[1]()

    def _read(self, node: _Node, stream: IO[bytes], is_error: bool, most: int = 65536) -> None:
        if stream.closed:  # since it was found to be readable
            return
        with suppress(BlockingIOError):
            if octets := os.read(stream.fileno(), most):
                self._output.write(node.rank, is_error, octets)
            else:
                self._close(node, stream, is_error)

    def _close(self, node: _Node, stream: IO[bytes], is_error: bool) -> None:
        self._output.end(node.rank, is_error)
        self._selector.unregister(stream)
        stream.close()

    def _ended(self, node: _Node) -> None:
        if node.code is None:
            self._note(node, node.process.wait())
        self._selector.unregister(node.ending)

    def _note(self, node: _Node, code: int) -> None:
        """A supervisor ends after all that it has started, unless it was killed."""
        if code < 0:
            node.end_marked()
        for is_error, stream in enumerate((node.process.stdout, node.process.stderr)):
            assert stream is not None
            self._read(node, stream, bool(is_error), PIPE_SIZE)
            if not stream.closed:
                self._close(node, stream, bool(is_error))
        if code < 0:
            message = f"edgesim: the supervisor of this node was killed by {signal.Signals(-code).name}\n"
            self._output.write(node.rank, True, message.encode())
        node.code = code if code >= 0 else 128 - code
        if node.code and not self._ending:
            self._end_all(self._grace, signal.SIGTERM)

    def _lost(self, what: str) -> None:
        raise NetworkError(f"{what} has ended, and every node was ended with it")

    def _interrupt(self) -> None:
        """The second one does not wait."""
        self._tell_all(signal.SIGKILL if self._interrupted else signal.SIGINT)
        self._orders.clear()
        self._end_all(0.0 if self._interrupted else self._grace, None)
        self._interrupted = True

    def _end_all(self, after: float, first: int | None) -> None:
        """By a signal that may be obeyed, if any, then by force."""
        self._ending = True
        when = time.monotonic() + after
        if first is not None:
            self._order(when, partial(self._tell_all, first))
            when += KILLED_AFTER
        self._order(when, partial(self._tell_all, signal.SIGKILL))
        self._order(when + KILLED_AFTER, self._give_up)

    def _tell_all(self, number: int) -> None:
        for node in self._nodes:
            if node.code is None:
                node.end(number)

    def _give_up(self) -> None:
        """On supervisors that have not ended although their commands were killed: they are stopped, or worse."""
        for node in self._nodes:
            if node.code is None:
                node.process.kill()
                self._note(node, -signal.SIGKILL)
