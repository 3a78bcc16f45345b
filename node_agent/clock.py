"""One interface, three clocks: the wall's, and two that nobody waits for. One of these measures computing, the other
models it.

A run's clock starts at 0 when the nodes have found one another. Each thread of a node has a clock of its own (`fork`);
where one thread's work depends on another's, the later one waits until the other's time, as between nodes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Protocol

from node_agent.job import Window


class Clock(Protocol):
    virtual: bool
    rested: float
    """s of pauses that this thread's computing was interrupted by"""

    def now(self) -> float:
        """Seconds since the run began."""

    def wait_until(self, moment: float) -> None:
        """Let time pass until `moment`; returns at once if it is over."""

    def fork(self) -> Clock:
        """The clock of a second thread, to be called by that thread; shows the time of this one or less."""

    def counting(self) -> AbstractContextManager[object]:
        """To be entered by the clock's thread around all that it computes."""

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Time spent inside does not count: for observing a run without being part of it. Raises RuntimeError if the
        clock stands already."""


class WallClock:
    """The host's monotonic clock, counted from an origin."""

    virtual = False
    rested = 0.0
    """not known here: a stopped process does not see the time pass"""

    def __init__(self) -> None:
        self._origin = time.monotonic()
        self._stops = _Once()
        self._stands_at: float | None = None

    def now(self) -> float:
        stands_at = self._stands_at
        return time.monotonic() - self._origin if stands_at is None else stands_at

    def host(self, moment: float) -> float:
        """The host's monotonic time at `moment` of the run."""
        return moment + self._origin

    @property
    def origin(self) -> float:
        """The host's monotonic time at which this clock shows 0."""
        return self._origin

    def wait_until(self, moment: float) -> None:
        sleep_until(self.host(moment))

    def fork(self) -> WallClock:
        return self

    def counting(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        with self._stops:
            began = time.monotonic()
            self._stands_at = began - self._origin
            yield
            self._origin += time.monotonic() - began
            self._stands_at = None


class VirtualClock:
    """Advanced by this thread's own CPU time, times `factor`, by what it waits for, and by `pauses` in which the node
    computes nothing (ascending); never sleeps.

    The host may be as busy as it likes: only the processor time that the thread itself consumed counts.
    """

    virtual = True

    def __init__(self, factor: float = 1.0, start: float = 0.0, pauses: Sequence[Window] = ()) -> None:
        if factor < 0:
            raise ValueError(f"the compute factor is at least 0, found {factor}")
        self._factor = factor
        self.rested = 0.0
        self._pauses = pauses
        self._to_come = deque(pauses)
        self._offset = start - self._computed()
        self._stops = _Once()

    def _computed(self) -> float:
        """Seconds of computing by this thread, from any origin."""
        return self._factor * time.thread_time()

    def now(self) -> float:
        moment = self._offset + self._computed()
        while self._to_come and self._to_come[0].start < moment:
            # What was left to compute when the pause began is computed after it.
            pause = self._to_come.popleft()
            self._offset += pause.end - pause.start
            self.rested += pause.end - pause.start
            moment += pause.end - pause.start
        return moment

    def wait_until(self, moment: float) -> None:
        now = self.now()
        while moment > now and self._to_come and self._to_come[0].start <= moment:
            moment = max(moment, self._to_come.popleft().end)  # a pause that waiting outlasts costs nothing
        self._offset += max(0.0, moment - now)

    def fork(self) -> VirtualClock:
        return VirtualClock(self._factor, pauses=self._pauses)

    def counting(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        with self._stops:
            began = self._computed()
            yield
            self._offset -= self._computed() - began


class Counted(Protocol):
    """What a thread computes while it has entered this, as the time that some device takes for it."""

    @property
    def seconds(self) -> float: ...

    def fresh(self) -> Counted:
        """The same for another thread, at nought."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ModelledClock(VirtualClock):
    """A virtual clock that knows nothing of the host: advanced by `work`, which is counted and not measured.

    The same program shows the same times on it, bit for bit. Threads of one node do not slow one another down.
    """

    def __init__(self, work: Counted, pauses: Sequence[Window] = ()) -> None:
        self._work = work
        super().__init__(pauses=pauses)

    def _computed(self) -> float:
        return self._work.seconds

    def fork(self) -> ModelledClock:
        return ModelledClock(self._work.fresh(), self._pauses)

    def counting(self) -> AbstractContextManager[object]:
        return self._work


class _Once:
    """A clock that was stopped twice would leave out the same time twice."""

    def __init__(self) -> None:
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError("the clock stands already")
        self._entered = True

    def __exit__(self, *_: object) -> None:
        self._entered = False


def sleep_until(host_moment: float) -> None:
    """Sleep until the host's monotonic clock shows `host_moment`."""
    while (remaining := host_moment - time.monotonic()) > 0:
        time.sleep(remaining)
