"""What a fleet is: it starts nodes, hands out their jobs and yields one stream of their events."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from node_agent.events import Event, Fault
from node_agent.job import Job, SceneSettings, ShardSettings

if TYPE_CHECKING:
    from node_agent.workloads.scenes import Scene

LOG_TAIL = 12
"""lines of a failed node's log that its error shows"""

SETTLING = 1.0
"""s; when a node fails its neighbours fail too, and the cause may be heard of later than its consequences"""


class FleetError(RuntimeError):
    """A fleet whose nodes cannot be started. For people; the first line says what is wrong."""


class NodeFailure(RuntimeError):
    """A node that died or gave up; `log` holds the last lines that it wrote."""

    def __init__(self, rank: int, node: str, reason: str, log: str) -> None:
        super().__init__(f"node {node} (rank {rank}) {reason}")
        self.rank = rank
        self.node = node
        self.reason = reason
        self.log = log


@dataclass(frozen=True)
class Strips:
    """A scene, and the strip of it that each node works on, by rank: first line, line after the last."""

    scene: Scene
    settings: SceneSettings
    lines: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Ground:
    """What the nodes of a run find."""

    rendezvous: str
    """where they meet: init_method of torch.distributed"""
    scenes: Sequence[SceneSettings | ShardSettings]
    """where each finds its strip of the scene, by rank"""


class Fleet(Protocol):
    """Used as a context manager: on leaving, no node is left running."""

    @property
    def pids_are_ours(self) -> bool:
        """Whether the processes that nodes tell of are of this host."""

    def prepare(self, run: str, nodes: Sequence[str], strips: Strips, folder: Path) -> Ground:
        """Make sure of the places where the nodes, in ring order, will run, and of what they need there. `folder` is a
        temporary one that goes with the run. Raises FleetError."""

    def start(self, jobs: Sequence[Job], logs: Sequence[Path]) -> None:
        """Start one node per job; what each prints is in its log when the fleet is left. Raises FleetError."""

    def folders(self) -> Sequence[Path]:
        """Temporary folders of this process that the nodes take, which are left behind where it is killed."""

    def described(self) -> dict[str, Any]:
        """What the nodes run on, for the run's configuration: `kind`, and what is known of each node's host."""

    def events(self) -> Iterator[Event]:
        """Every node's events as they come, until all have finished. Raises NodeFailure as soon as one fails."""

    def __enter__(self) -> Fleet: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Failing(Protocol):
    """A node that may have failed."""

    @property
    def blame(self) -> int: ...


N = TypeVar("N", bound=Failing)

DIED, RAISED, LOST_NEIGHBOUR = 0, 1, 2
"""how far a node's failure is from its cause"""


def blame_of(fault: Fault | None) -> int:
    """Of a node that failed, with or without a last word."""
    if fault is None:
        return DIED
    return LOST_NEIGHBOUR if fault.neighbour_lost else RAISED


def cause_of(failed: Sequence[N], first: N) -> N:
    """The failure that the others are consequences of: a death before an error, an error before a lost link. Among
    equals the first one that was heard of."""
    return min(failed, key=lambda node: (node.blame, node is not first))


def ended(code: int, last_step: int) -> str:
    """How a process without a last word ended: with its exit code, or minus the number of the signal that killed it."""
    return f"{how_ended(code)} {when(last_step)}"


def how_ended(code: int) -> str:
    if code >= 0:
        return f"ended early with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def when(last_step: int) -> str:
    return f"after step {last_step}" if last_step else "before its first step"


def tail(log: Path) -> str:
    """Its last lines."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"({log}: {error.strerror})"
    return "\n".join(lines[-LOG_TAIL:])
