"""The nodes of a run on boards: an agent on each, over HTTPS.

A run takes its boards in four steps: it meets them all (`handshake`), claims them in ring order (`claiming`), sends
each its strip of the scene (`upload`), and starts all with the first one's socket as the meeting. From its claim on a
board keeps the run for as long as it hears of it (`listener.Heartbeat`); whatever ends this process, the boards are
free again when their leases have run out.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgesim.fleet.access import Access
from edgesim.fleet.base import (
    DIED,
    LOST_NEIGHBOUR,
    SETTLING,
    FleetError,
    Ground,
    NodeFailure,
    Strips,
    blame_of,
    cause_of,
    ended,
    how_ended,
    tail,
    when,
)
from edgesim.fleet.claiming import claim
from edgesim.fleet.client import BoardClient, BoardError, End, Rejected, Unreachable, printable, printable_lines
from edgesim.fleet.everywhere import everywhere
from edgesim.fleet.handshake import Met, differences, meet_all, unusable
from edgesim.fleet.inventory import Place
from edgesim.fleet.listener import AGAIN, Ear, Heartbeat, Inbox, Lost, Told
from edgesim.fleet.logs import fetch_log
from edgesim.fleet.plausible import Listener
from edgesim.fleet.shards import Shard, make_shards
from edgesim.fleet.upload import upload
from node_agent.daemon.api import Claim, JobStatus, RunTask
from node_agent.events import Event, Fault, Finished
from node_agent.job import Job

DEFAULT_LEASE = 20.0
"""s; a cable may be out for less than that"""

LEAVING = 15.0
"""s within which boards are cancelled, asked for their logs and left; those that do not answer end by their lease"""

ENDING = 5.0
"""s that a cancelled job may take to end"""

Tell = Callable[[str], None]


class RemoteFleet:
    """A board per node. May be used for several runs, one after the other."""

    def __init__(self, access: Access, places: Sequence[Place], lease: float, allow_versions: bool, tell: Tell) -> None:
        """
        Args:
            places: the board of each node, in ring order.
            lease: s of our silence after which a board ends its part of the run.
            allow_versions: whether boards of different versions are taken, with a warning.
            tell: is called with what people should know while boards are waited for.

        Raises:
            FleetError: they may not be spoken to.
        """
        self._access = access
        self._clients = access.clients(places)
        for client in self._clients:
            client.hurry(lease)
        self._lease = lease
        self._allow_versions = allow_versions
        self._tell = tell
        self._warned = False
        self._met: list[Met] = []
        self._shards: list[Shard] = []
        self._nodes: list[_RemoteNode] = []
        self._inbox = Inbox()

    @property
    def pids_are_ours(self) -> bool:
        return False

    def folders(self) -> Sequence[Path]:
        return ()

    def described(self) -> dict[str, Any]:
        boards = {node.name: met.described() for node, met in zip(self._nodes, self._met, strict=False)}
        return {"kind": "boards", "lease_s": self._lease, "boards": boards}

    def meet(self) -> None:
        """Find all boards there, of versions that go together. Raises FleetError."""
        self._met = meet_all(self._clients)
        found = differences(self._met)
        if found is not None and not self._allow_versions:
            raise FleetError(f"{found}\n  --allow-versions makes the run all the same")
        if found is not None and not self._warned:
            self._warned = True
            self._tell(f"warning: {found}")
        self._refuse(unusable(self._met, [0] * len(self._met)))
        self._access.renew(self._clients, self._tell)
        self._access.tell_revoked(self._clients, self._tell)

    def prepare(self, run: str, nodes: Sequence[str], strips: Strips, folder: Path) -> Ground:
        self.meet()
        self._shards = make_shards(strips, folder)
        self._refuse(unusable(self._met, [shard.file.bytes for shard in self._shards]))
        self._inbox = Inbox()
        claimed: dict[str, str] = {}
        for rank, (node, client, shard) in enumerate(zip(nodes, self._clients, self._shards, strict=True)):
            wanted = Claim(run=run_name(run), lease_s=self._lease, files=(shard.file,))
            try:
                status = claim(client, wanted, self._tell, claimed)
            except BoardError as error:
                raise FleetError(str(error)) from error
            claimed[status.id] = client.name
            self._nodes.append(_RemoteNode(rank, node, client, status, self._lease))
        return Ground(self._meeting(), [shard.settings for shard in self._shards])

    def _meeting(self) -> str:
        """Where the first board has opened a port for the others."""
        meeting, name = self._nodes[0].status.meeting, self._clients[0].name
        if meeting is None:
            raise FleetError(f"{name}: has opened no port for the others to meet at")
        try:
            number = ipaddress.ip_address(meeting.host)
        except ValueError:
            raise FleetError(f"{name}: meets at {printable(meeting.host, 40)!r}, allowed an IP address") from None
        if not 1 <= meeting.port <= 65535:
            raise FleetError(f"{name}: meets at port {meeting.port}, allowed 1 to 65535")
        host = f"[{number}]" if number.version == 6 else str(number)
        return f"tcp://{host}:{meeting.port}"

    def start(self, jobs: Sequence[Job], logs: Sequence[Path]) -> None:
        def send(node: _RemoteNode) -> None:
            shard = self._shards[node.rank]
            upload(node.client, node.status.id, shard.file, shard.path, self._lease)

        self._all(send)
        for node, job, log in zip(self._nodes, jobs, logs, strict=True):
            node.assign(job, log)
        self._all(_RemoteNode.start)
        for node in self._nodes:
            node.listen(self._inbox)

    def _all(self, ask: Callable[[_RemoteNode], None]) -> None:
        """Of all boards at once. Raises FleetError that names each that failed."""
        answers = everywhere(self._nodes, ask)
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, BoardError):
                raise answer
        self._refuse([str(answer) for answer in answers if isinstance(answer, BoardError)])

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            first = f"{len(problems)} problems with the boards"
            raise FleetError(problems[0] if len(problems) == 1 else "\n  ".join((f"{first}:", *problems)))

    def events(self) -> Iterator[Event]:
        waiting = {node.rank for node in self._nodes}
        while waiting:
            told = self._inbox.get()
            assert told is not None
            node = self._nodes[told[0]]
            event = node.take(told[1])
            if event is not None:
                yield event
            if node.failed:
                yield from self._last_events()
                raise self._cause(node)
            if node.over:
                waiting.discard(node.rank)

    def _last_events(self) -> Iterator[Event]:
        """What the other nodes still have to say: things measured, and failures of their own. Where all that is known
        is that neighbours were lost, boards that are silent are waited for: they are back, or given up, in time."""
        deadline = time.monotonic() + SETTLING
        while (left := deadline - time.monotonic()) > 0 or self._cause_is_silent():
            if all(node.over for node in self._nodes):
                return
            yield from self._next_event(max(left, 0.1))
        for _ in range(Inbox.LENGTH):  # what the last one of them was about to say
            if self._inbox.empty:
                return
            yield from self._next_event(0.1)

    def _next_event(self, timeout: float) -> Iterator[Event]:
        """The next event, if one comes within `timeout` s."""
        told = self._inbox.get(timeout)
        event = None if told is None else self._nodes[told[0]].take(told[1])
        if event is not None:
            yield event

    def _cause_is_silent(self) -> bool:
        only_lost = all(node.blame == LOST_NEIGHBOUR for node in self._nodes if node.failed)
        return only_lost and any(node.doubtful for node in self._nodes)

    def _cause(self, first: _RemoteNode) -> NodeFailure:
        cause = cause_of([node for node in self._nodes if node.failed], first)
        cause.fetch_log()
        return cause.failure([node.name for node in self._nodes if node is not cause and node.lost])

    def __enter__(self) -> RemoteFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.close()
        try:
            for node, problem in zip(self._nodes, everywhere(self._nodes, _RemoteNode.leave, LEAVING), strict=True):
                if isinstance(problem, Exception) and not node.lost:
                    said = problem if isinstance(problem, BoardError) else f"{node.client.name}: {problem}"
                    self._tell(f"{said}; left to its lease of {self._lease:g} s")
        finally:  # also where an interrupt ends the waiting
            for node in self._nodes:
                node.stop()
            for client in self._clients:
                client.close()
            self._nodes = []


class _RemoteNode:
    """A board's job, seen from the controller."""

    def __init__(self, rank: int, name: str, client: BoardClient, status: JobStatus, lease: float) -> None:
        self.rank = rank
        self.name = name
        self.client = client
        self.status = status
        self.finished = False
        self.fault: Fault | None = None
        self.end: End | None = None
        self.lost: Lost | None = None
        self._lease = lease
        self._heartbeat = Heartbeat(client, status.id, lease)
        self._ear: Ear | None = None
        self._job: Job | None = None
        self._log: Path | None = None
        self._last_step = 0
        self._last_words = ""

    def assign(self, job: Job, log: Path) -> None:
        self._job, self._log = job, log

    def start(self) -> None:
        """A board that does not answer is asked again for as long as the lease: it may have understood."""
        assert self._job is not None
        until: float | None = None
        while True:
            try:
                self.client.start(self.status.id, RunTask(job=self._job))
                return
            except Unreachable:
                until = until or time.monotonic() + self._lease
                if time.monotonic() > until:
                    raise
            except Rejected as error:
                if until and error.code == 409 and error.status and error.status.state not in ("staging", "ready"):
                    return
                raise
            time.sleep(AGAIN)

    def listen(self, inbox: Inbox) -> None:
        assert self._job is not None
        check = Listener(self._job)
        self._ear = Ear(self.client, self.status.id, self._lease, check, lambda told: inbox.put(self.rank, told))

    def take(self, told: Told) -> Event | None:
        """Note what was told; the event, if it was one."""
        if isinstance(told, End):
            self.end = told
        elif isinstance(told, Lost):
            self.lost = told
        else:
            if isinstance(told, Finished):
                self.finished = True
            elif isinstance(told, Fault):
                self.fault = told
            self._last_step = getattr(told, "step", self._last_step)
            return told
        return None

    @property
    def over(self) -> bool:
        return self.end is not None or self.lost is not None

    @property
    def failed(self) -> bool:
        return self.fault is not None or (self.over and not self.finished)

    @property
    def doubtful(self) -> bool:
        return self._ear is not None and self._ear.doubtful

    @property
    def blame(self) -> int:
        return blame_of(self.fault) if self.lost is None else DIED

    def failure(self, also_lost: Sequence[str] = ()) -> NodeFailure:
        """`also_lost`: other nodes of which nothing is heard."""
        return NodeFailure(self.rank, self.name, self._reason(also_lost), printable_lines(self._last_words))

    def _reason(self, also_lost: Sequence[str]) -> str:
        if self.lost is not None:
            others = f"; nor is anything heard of {', '.join(also_lost)}" if also_lost else ""
            board = "" if self.client.name == self.name else f"{self.client.name}, "
            return f"on {board}{self.client.address} {self.lost.reason}{others}"
        if self.fault is not None:
            return f"failed: {printable(self.fault.error)}"
        assert self.end is not None
        said = printable(self.end.error or "")
        if self.end.exit is not None and (not said or said.startswith(how_ended(self.end.exit))):
            return said or ended(self.end.exit, self._last_step)
        return f"failed {when(self._last_step)}: {said or 'its board does not say why'}"

    def fetch_log(self) -> None:
        """Have in the log's file what the board has by now."""
        assert self._log is not None
        if self.lost is not None and self.lost.unreachable:
            return
        try:
            fetch_log(self.client, self.status.id, self._log)
            self._last_words = tail(self._log)
        except BoardError as error:
            self._last_words = f"(no log: {error})"

    def leave(self) -> None:
        """Let nothing of the job be left on its board, once its log is here. Raises BoardError."""
        if self.end is None:
            self._end()
        if self._log is not None:
            fetch_log(self.client, self.status.id, self._log)
        try:
            self.client.forget(self.status.id)
        except Rejected as error:
            if error.code != 404:
                raise

    def _end(self) -> None:
        try:
            status = self.client.cancel(self.status.id)
            until = time.monotonic() + ENDING
            while status.lease_left_s is not None and time.monotonic() < until:
                time.sleep(0.05)
                status = self.client.job(self.status.id)
        except Rejected as error:  # one that was never started may not be to be cancelled: it is forgotten
            if error.code not in (404, 409):
                raise

    def stop(self) -> None:
        self._heartbeat.stop()
        if self._ear is not None:
            self._ear.stop()


def run_name(name: str) -> str:
    """As boards take it."""
    return re.sub(r"[^A-Za-z0-9_.:+-]", "-", name).lstrip("_.:+-")[:128] or "run"
