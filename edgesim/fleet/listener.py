"""What one board tells of its job, read by a thread of its own, and the lease that another thread renews."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgesim.fleet.client import QUIET, BoardClient, BoardError, End, Mistrusted, Rejected, Unreachable, printable
from edgesim.fleet.plausible import Implausible
from node_agent.events import Event
from node_agent.wire import WireError, decode

AGAIN, LONGEST_PAUSE = 0.2, 2.0
"""s before a broken connection is tried again, at first and at most"""


@dataclass(frozen=True)
class Lost:
    """A board that will tell no more, and why."""

    reason: str
    unreachable: bool = False
    """whether nothing was heard of it"""


Told = Event | End | Lost


class Heartbeat:
    """Renews the lease of a board's job, three times as often as needed, until it is stopped or the job is gone."""

    def __init__(self, client: BoardClient, job: str, lease: float) -> None:
        self._client = client
        self._job = job
        self._interval = lease / 3
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {client.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _beat(self) -> None:
        pause = self._interval
        while not self._stopped.wait(pause):
            pause = self._interval
            try:
                if self._client.renew(self._job, within=self._interval).lease_left_s is None:
                    return
            except BoardError as error:
                if isinstance(error, Mistrusted) or (isinstance(error, Rejected) and error.code in (403, 404)):
                    return  # whoever reads the events hears why
                pause = min(0.3 * self._interval, LONGEST_PAUSE)


class Ear:
    """Reads the events of a board's job and hands them on, in order and each once, however often the connection breaks.

    The last thing that it hands on is the job's end, or why nothing more will be heard.
    """

    def __init__(
        self,
        client: BoardClient,
        job: str,
        lease: float,
        check: Callable[[Event], Event],
        hand_on: Callable[[Told], None],
    ) -> None:
        """`check` raises Implausible; both are called by the thread, and `hand_on` may block."""
        self._client = client
        self._job = job
        self._lease = lease
        self._check = check
        self._hand_on = hand_on
        self._after = 0
        self._heard_at = time.monotonic()
        self._connected = False
        self._stopped = threading.Event()
        self.over = False
        """whether all has been told"""
        self._thread = threading.Thread(target=self._listen, name=f"events of {client.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def doubtful(self) -> bool:
        """Whether the board has been quiet for longer than one is that is there."""
        return not self.over and (not self._connected or time.monotonic() - self._heard_at > QUIET)

    def _listen(self) -> None:
        last: Lost | None = None
        try:
            for told in self._told():
                self._hand_on(told)
        except (BoardError, WireError, Implausible) as error:
            said = error.message if isinstance(error, BoardError) else str(error)
            last = Lost(f"tells what no node would tell: {printable(said)}")
        except Exception as error:  # a mistake of ours must not look like silence
            last = Lost(f"cannot be listened to: {type(error).__name__}: {error}")
            raise
        finally:
            if last is not None:
                self._hand_on(last)
            self.over = True

    def _told(self) -> Iterator[Told]:
        pause, trouble = AGAIN, ""
        while not self._stopped.is_set():
            try:
                for told in self._stream():
                    pause = AGAIN
                    yield told
                    if isinstance(told, End):
                        return
                trouble = "its stream of events ended before the job did"
            except Unreachable as error:
                trouble = error.message
            except Mistrusted as error:
                yield Lost(f"is not to be spoken to any more: {error.message}")
                return
            except Rejected as error:
                yield Lost(f"does not tell of its job any more: {error.message}")
                return
            self._connected = False
            silent = time.monotonic() - self._heard_at
            if silent > self._lease:
                yield Lost(f"is unreachable since {silent:.0f} s ({trouble})", unreachable=True)
                return
            self._stopped.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _stream(self) -> Iterator[Event | End]:
        for line in self._client.events(self._job, self._after):
            if self._stopped.is_set():
                return
            self._heard_at, self._connected = time.monotonic(), True
            if line is None:
                continue
            if line.end is not None:
                yield line.end
                return
            if line.seq <= self._after:
                continue
            if line.seq != self._after + 1:
                raise Implausible(f"seq: found {line.seq}, allowed {self._after + 1}")
            assert line.event is not None
            event = self._check(decode(line.event))
            self._after = line.seq
            yield event


class Inbox:
    """What several boards tell, as one stream in the order of arrival. Bounded: boards wait for who reads it."""

    LENGTH = 64

    def __init__(self) -> None:
        self._told: queue.Queue[tuple[int, Told]] = queue.Queue(self.LENGTH)
        self._closed = threading.Event()

    def put(self, rank: int, told: Told) -> None:
        while not self._closed.is_set():
            try:
                self._told.put((rank, told), timeout=0.5)
                return
            except queue.Full:
                continue

    def get(self, timeout: float | None = None) -> tuple[int, Told] | None:
        """None: nothing came within `timeout` s."""
        try:
            return self._told.get(timeout=timeout)
        except queue.Empty:
            return None

    @property
    def empty(self) -> bool:
        return self._told.empty()

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed.set()
