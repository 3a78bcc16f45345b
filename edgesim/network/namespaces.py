"""A run's network, seen from its controller: made on entering, gone on leaving."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from edgesim.network import helpers, records, shaping
from edgesim.network.plan import ASIDE, DATA, Applied, Built, Kernel, Plan, Unavailable, make_plan
from edgesim.network.records import Record, RecordError
from edgesim.topology.schema import Topology
from node_agent.job import Entrance, LinkSettings

ENDING = 5.0
"""s in which the keeper ends once nobody listens to it any more"""

WARM_UP = 1.0
"""s, at the link's rate, of what is transferred at least before that rate is measured: TCP begins slowly"""

WARM_UP_ROUNDS = 4
"""the same in round trips. While TCP doubles its window every round trip, as much passes altogether as the link holds
in two; filling the queue, and what is sent again once that has overflowed, takes as much again (RFC 5681, section 3)"""

MOST_NAME = 64
"""bytes of a folder's name that its run's name begins with: that becomes a file's name"""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""the kernel gives a user namespace only to a process of one thread, and libraries would start more"""


class NetworkError(RuntimeError):
    """A network that could not be made, or that failed, in one line."""


class Network:
    """Used as a context manager: on leaving, nothing of it remains.

    Every namespace is held by a process of its own (`edgesim.network.keeper`), and by the nodes inside.
    """

    def __init__(self, plan: Plan, record: Record | None = None) -> None:
        """`record`: of the run that the network is a part of; None: it has one of its own."""
        self.plan = plan
        self._record = record
        self._keeper: _Keeper | None = None
        self._open = ExitStack()

    def __enter__(self) -> Network:
        """Raises NetworkError."""
        if self._record is None:
            try:
                self._record = self._open.enter_context(records.recorded(self.plan.run))
            except RecordError as error:
                raise NetworkError(str(error)) from error
        try:
            self._keeper = _Keeper(self.plan.run, self._record.token)
            self.adopt(self._keeper.pid)
            self.built = cast(Built, self._keeper.ask("build", self.plan))
            for pid in self.built.relays:
                self.adopt(pid)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        try:
            self._open.close()
        except RecordError as error:
            raise NetworkError(str(error)) from error

    @property
    def entrances(self) -> tuple[Entrance, ...]:
        """Of the nodes, in ring order."""
        return self.built.entrances

    def inside(self, rank: int) -> dict[str, Any]:
        """What the job of a node says of its place in the network."""
        return {"imposed": "kernel", "interface": DATA, "aside": ASIDE, "entrance": self.entrances[rank]}

    @property
    def token(self) -> str:
        """The mark of the run's processes, for their environment (`records.TOKEN`)."""
        assert self._record is not None
        return self._record.token

    @property
    def processes(self) -> dict[int, str]:
        """Pids of the processes that the network lasts only as long as, and what each is, in words."""
        assert self._keeper is not None
        relays = {pid: f"the relay of the links (process {pid})" for pid in self.built.relays}
        return {self._keeper.pid: f"the process that holds the network ({self._keeper.pid})", **relays}

    def adopt(self, pid: int) -> None:
        """Record a process as one of this run's, which does not outlive it. Raises NetworkError."""
        assert self._record is not None
        try:
            self._record.add(pid)
        except RecordError as error:
            raise NetworkError(str(error)) from error

    def begin(self, origin: float) -> None:
        """The run's clock shows 0 at `origin` of this host's monotonic clock; said again where it was set.

        Raises NetworkError.
        """
        self._asked("begin", origin)

    def applied(self) -> list[Applied]:
        """What imposes each directed link now, read back, with what it has carried so far. Raises NetworkError."""
        return cast(list[Applied], self._asked("applied"))

    def _asked(self, verb: str, *arguments: object) -> Any:
        assert self._keeper is not None
        return self._keeper.ask(verb, *arguments)


def warm_up(links: Iterable[LinkSettings]) -> float:
    """What to transfer over any of the links before its rate is measured, in s at its rate: all directions are given,
    the acknowledgements' too."""
    delay = max((state.delay + state.jitter for link in links for state in shaping.states(link)), default=0.0)
    return max(WARM_UP, WARM_UP_ROUNDS * 2 * delay)


def run_id(path: Path) -> str:
    """What names a run while it goes on: its folder, whose name alone another run may have too."""
    whole = path.resolve()
    name = os.fsencode(whole.name)[:MOST_NAME].decode(errors="ignore")
    return f"{name}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]}"


def usable_plan(topology: Topology) -> Plan:
    """How the topology's links are imposed by this kernel, which is asked first.

    Raises Unavailable where it cannot, NetworkError where it cannot be asked.
    """
    return make_plan(topology, topology.name, probe())


def check(topology: Topology) -> None:
    """Whether this kernel could impose the topology's links if the user may have namespaces here.

    Raises Unavailable where it could not, NetworkError where that depends on netem and cannot be tried.
    """
    try:
        make_plan(topology, topology.name, Kernel())
    except Unavailable:
        make_plan(topology, topology.name, Kernel(netem=probe().netem))


def probe() -> Kernel:
    """What this machine allows and its kernel can do, tried out. Raises NetworkError."""
    keeper = _Keeper("probe", secrets.token_hex(16))
    try:
        return cast(Kernel, keeper.ask("probe"))
    finally:
        keeper.close()


class _Keeper:
    """The process, and the way to talk to it."""

    def __init__(self, run: str, token: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgesim.network.keeper", str(theirs.fileno()), run],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=helpers.environment(**ONE_THREAD, **{records.TOKEN: token}),
                cwd=helpers.FOLDER,
                start_new_session=True,  # an interrupt from the terminal is the controller's to handle
            )
        self._connection = Connection(ours.detach())
        self._failure: str | None = None
        self.pid = self._process.pid

    def ask(self, verb: str, *arguments: object) -> Any:
        """Raises NetworkError."""
        if self._failure is not None:
            raise NetworkError(self._failure)
        try:
            with suppress(BrokenPipeError):  # it may have said why before it ended
                self._connection.send((verb, *arguments))
            done, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise NetworkError(f"the process that holds the network ended: {verb} was not done") from error
        if not done:
            self._failure = f"network: {answer}"
            raise NetworkError(self._failure)
        return answer

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
