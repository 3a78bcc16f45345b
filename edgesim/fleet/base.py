"""What a fleet is: it starts nodes, hands out their jobs and yields one stream of their events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from node_agent.events import Event
from node_agent.job import Job


class NodeFailure(RuntimeError):
    """A node that died or gave up; `log` holds the last lines that it wrote."""

    def __init__(self, rank: int, node: str, reason: str, log: str) -> None:
        super().__init__(f"node {node} (rank {rank}) {reason}")
        self.rank = rank
        self.node = node
        self.reason = reason
        self.log = log


class Fleet(Protocol):
    """Used as a context manager: on leaving, no node is left running."""

    def start(self, jobs: Sequence[Job], logs: Sequence[Path]) -> None:
        """Start one node per job; each writes what it prints to its log."""

    def folders(self) -> Sequence[Path]:
        """Temporary folders of this process that the nodes take, which are left behind where it is killed."""

    def events(self) -> Iterator[Event]:
        """Every node's events as they come, until all have finished. Raises NodeFailure as soon as one fails."""

    def __enter__(self) -> Fleet: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
