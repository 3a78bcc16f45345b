"""Pauses of a node under the wall clock: whoever started its process is asked to stop it for so long.

All of the process stops: messages that it holds back for its link wait, too, while under the virtual clock what has
been sent arrives in time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from node_agent.clock import WallClock
from node_agent.job import Window

LOOK = 0.05
"""s between two looks at a clock that may be set while one waits for it"""


class Pauses:
    """Asks for each pause when the run's clock comes to it, while this is entered."""

    def __init__(self, pauses: Sequence[Window], clock: WallClock, ask: Callable[[float], None]) -> None:
        """`ask` is called with the length of a pause, s, when it is to begin."""
        self._pauses = pauses
        self._clock = clock
        self._ask = ask
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pauses", daemon=True)

    def _watch(self) -> None:
        for pause in self._pauses:
            while (left := pause.start - self._clock.now()) > 0:
                if self._over.wait(min(left, LOOK)):
                    return
            self._ask(pause.end - pause.start)
            if self._over.wait(LOOK):  # by then the process has been stopped
                return

    def __enter__(self) -> None:
        if self._pauses:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._pauses:
            self._thread.join()
